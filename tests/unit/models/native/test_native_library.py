"""The native kernels against Transformers with the same quantised weights, and their promises."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library
from penstock.models.backends.native.decoder import Decoder
from penstock.models.backends.native.layout import Shape, Vector, Which
from penstock.models.backends.native.library import Isa
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.weights import q4_0
from tests.fixtures.models import randomise

pytestmark = pytest.mark.timeout(300)  # the first one compiles: see `avx_vnni_by_evex`

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

SIZES: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
WIDE = {**SIZES, "hidden_size": 256, "intermediate_size": 512}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama-biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    ),
    "llama-all-heads": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4})),
    "llama-7-heads-of-80": lambda: LlamaForCausalLM(
        LlamaConfig(
            **{**SIZES, "hidden_size": 224, "num_attention_heads": 7, "num_key_value_heads": 1},
            head_dim=80,
        )
    ),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3-wide-heads": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDE, head_dim=128)),
    "qwen3-very-wide-heads": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDE, head_dim=256)),
    "llama-several-blocks-of-columns": lambda: LlamaForCausalLM(
        LlamaConfig(
            **{**SIZES, "num_hidden_layers": 1, "hidden_size": 640, "intermediate_size": 1152}
        )
    ),
    "llama-tiny-heads": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=6)),
}


@dataclass
class Sequence:
    """What a step computes of a sequence: `count` tokens from `start` on."""

    ids: list[int]
    start: int
    count: int
    blocks: list[int]


class Native:
    """A Transformers model with quantised weights, its twin in the library, and a cache."""

    def __init__(
        self,
        model: Any,
        group: int | None,
        isa: Isa = Isa.BEST,
        threads: int = 2,
        block: int = 32,
        *,
        small_cache: bool = False,
    ) -> None:
        self.model = randomise(model).float().eval()
        self.config = model.config
        self.group = group
        config = self.config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // (
            config.num_attention_heads
        )
        window = getattr(config, "sliding_window", None) or 0
        self.shape = Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=head_size,
            vocab=config.vocab_size,
            block_size=block,
            qk_norm=config.model_type == "qwen3",
            norm_epsilon=config.rms_norm_eps,
            sliding_windows=(window if config.model_type == "mistral" else 0,)
            * config.num_hidden_layers,
            small_cache=small_cache,
        )
        self.decoder = Decoder(self.shape, threads, isa=isa)
        self._set_weights()
        blocks = 96
        self.cache = aligned(blocks * self.decoder.cache_block_bytes).reshape(blocks, -1)
        self.cache[:] = 0xFF  # NaN in fp16: what was never written must not matter

    def _set_weights(self) -> None:
        inner = self.model.model
        decoder = self.decoder
        decoder.set_embeddings(inner.embed_tokens.weight.detach().numpy().copy())
        for index, layer in enumerate(inner.layers):
            attention, mlp = layer.self_attn, layer.mlp
            qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
            self._matrix(Which.QKV, index, qkv)
            self._matrix(Which.OUTPUT, index, [attention.o_proj])
            self._mlp(index, mlp)
            self._vector(Vector.INPUT_NORM, index, [layer.input_layernorm.weight])
            self._vector(Vector.ATTENTION_NORM, index, [layer.post_attention_layernorm.weight])
            if self.shape.qk_norm:
                self._vector(Vector.QUERY_NORM, index, [attention.q_norm.weight])
                self._vector(Vector.KEY_NORM, index, [attention.k_norm.weight])
            for which, linears in (
                (Vector.QKV_BIAS, qkv),
                (Vector.OUTPUT_BIAS, [attention.o_proj]),
            ):
                self._bias(which, index, linears)
        self._vector(Vector.FINAL_NORM, 0, [inner.norm.weight])
        self._matrix(Which.HEAD, 0, [self.model.lm_head])
        positions = torch.arange(self.config.max_position_embeddings)[None]
        tables = inner.rotary_emb(torch.zeros(1), positions)
        decoder.set_rotary(*(table[0].numpy().copy() for table in tables))

    def _mlp(self, index: int, mlp: Any) -> None:
        self._matrix(Which.GATE_UP, index, [mlp.gate_proj, mlp.up_proj])
        self._matrix(Which.DOWN, index, [mlp.down_proj])
        self._bias(Vector.GATE_UP_BIAS, index, [mlp.gate_proj, mlp.up_proj])
        self._bias(Vector.DOWN_BIAS, index, [mlp.down_proj])

    def _bias(self, which: Vector, layer: int, linears: list[Any]) -> None:
        if linears[0].bias is not None:
            self._vector(which, layer, [linear.bias for linear in linears])

    def _vector(self, which: Vector, layer: int, parts: list[torch.Tensor]) -> None:
        self.decoder.set_vector(which, layer, torch.cat(parts).detach().numpy())

    def _matrix(self, which: Which, layer: int, linears: list[Any]) -> None:
        """Quantise, give to the library, and put what that stands for into Transformers."""
        parts: list[Part] = []
        for linear in linears:
            weight = linear.weight.detach()
            columns = weight.shape[1]
            if self.group is not None and columns % self.group == 0:
                values, scales = q4_0.quantize(weight, self.group)
                meant = q4_0.dequantize(values, scales)
            else:
                scales = (weight.abs().amax(1, keepdim=True) / 127).numpy()
                values = (weight / torch.from_numpy(scales)).round().to(torch.int8).numpy()
                meant = values * scales
            parts.append(Part(values, scales))
            linear.weight.data = torch.from_numpy(np.asarray(meant, np.float32))
        first = parts[0].scales
        assert first is not None
        kind = Kind.I4 if first.dtype == np.float16 else Kind.I8
        layout = Layout.PAIRED if which is Which.GATE_UP else Layout.STACKED
        rows = sum(len(part.values) for part in parts)
        packing = Packing(kind, layout, rows, columns, self.group or 64)
        packed = aligned(packed_bytes(packing))
        pack(packing, parts, packed)
        self.decoder.set_matrix(which, layer, packing, packed)

    def step(self, sequences: list[Sequence], *, every: bool = True) -> Any:
        """Logits of all the step's tokens, or of each sequence's last one."""
        ends = np.cumsum([one.count for one in sequences])
        return self.compute(sequences, list(range(ends[-1])) if every else list(ends - 1))

    def compute(self, sequences: list[Sequence], rows: list[int]) -> Any:
        ids: list[int] = []
        begins, blocks, block_begins = [0], [], [0]
        for one in sequences:
            ids += one.ids[one.start : one.start + one.count]
            begins.append(len(ids))
            blocks += one.blocks
            block_begins.append(len(blocks))
        logits = np.full((len(rows), self.shape.vocab), np.nan, np.float32)
        self.decoder.step(
            token_ids=np.array(ids, np.int64),
            past_lens=np.array([one.start for one in sequences], np.int32),
            subsequence_begins=np.array(begins, np.int32),
            block_indices=np.array(blocks, np.int32),
            block_indices_begins=np.array(block_begins, np.int32),
            rows=np.array(rows, np.int32),
            cache=self.cache,
            logits=logits,
        )
        return logits

    def expected(self, ids: list[int]) -> Any:
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].numpy()


def aligned(size: int) -> Any:
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def some_ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], count).tolist()


def error_of(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("group", [32, 64, 128, None])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, group: int | None) -> None:
    native = Native(MODELS[name](), group)
    ids = some_ids(75)
    found = native.step([Sequence(ids, 0, len(ids), [5, 3, 9])])
    assert error_of(found, native.expected(ids)) < 0.05  # activations of 8 bits, random weights


@pytest.mark.parametrize("name", ["llama", "qwen3-very-wide-heads", "llama-tiny-heads"])
def test_keys_and_values_in_8_bit_change_little(name: str) -> None:
    ids = some_ids(75)
    found: list[Any] = []
    for small_cache in (False, True):
        torch.manual_seed(0)
        native = Native(MODELS[name](), 64, small_cache=small_cache)
        found.append(native.step([Sequence(ids, 0, len(ids), [5, 3, 9])]))
    assert 0 < error_of(found[1], found[0]) < 0.05


def test_every_instruction_set_gives_the_same_bits(isa: Isa) -> None:
    for name, group, small_cache in (
        ("llama", 64, False),
        ("qwen3-wide-heads", 32, True),
        ("llama-7-heads-of-80", None, False),
        ("llama-7-heads-of-80", 32, True),
        ("llama-several-blocks-of-columns", 32, False),
    ):
        ids = some_ids(40)
        step = [Sequence(ids, 0, len(ids), [1, 2])]
        torch.manual_seed(0)
        found = Native(MODELS[name](), group, isa, small_cache=small_cache).step(step)
        torch.manual_seed(0)
        best = Native(MODELS[name](), group, small_cache=small_cache).step(step)
        assert np.array_equal(found, best)


@pytest.mark.parametrize(
    ("name", "small_cache"),
    [
        ("llama", False),
        ("llama", True),
        ("mistral-window", False),
        ("mistral-window", True),
        ("llama-7-heads-of-80", False),
        ("llama-several-blocks-of-columns", False),
    ],
)
def test_neighbours_and_chunks_change_no_bit(isa: Isa, name: str, *, small_cache: bool) -> None:
    native = Native(MODELS[name](), 64, isa, small_cache=small_cache)
    texts = [some_ids(count, seed) for seed, count in enumerate((1100, 3, 33, 64))]
    tables = [list(range(first, first + 35)) for first in (0, 40, 42, 45)]
    alone = [
        native.step([Sequence(ids, 0, len(ids), table)])
        for ids, table in zip(texts, tables, strict=True)
    ]
    native.cache[:] = 0xFF
    done = [0] * len(texts)
    chunks = np.random.default_rng(7)
    while any(count < len(ids) for count, ids in zip(done, texts, strict=True)):
        step: list[Sequence] = []
        which: list[int] = []
        for index, ids in enumerate(texts):
            count = min(len(ids) - done[index], int(chunks.choice([1, 1, 2, 5, 70, 300])))
            if count and chunks.random() < 0.8:
                step.append(Sequence(ids, done[index], count, tables[index]))
                which.append(index)
        if not step:
            continue
        logits = native.step(step)
        at = 0
        for index, one in zip(which, step, strict=True):
            expected = alone[index][one.start : one.start + one.count]
            assert np.array_equal(logits[at : at + one.count], expected)
            at += one.count
            done[index] += one.count


def test_which_logits_are_wanted_changes_no_bit() -> None:
    native = Native(MODELS["llama"](), 64)
    texts = [some_ids(count, count) for count in (70, 1, 9)]
    step = [
        Sequence(ids, 0, len(ids), [first, first + 1, first + 2])
        for first, ids in zip((0, 3, 6), texts, strict=True)
    ]
    every = native.step(step)
    assert np.array_equal(native.step(step, every=False), every[[69, 70, 79]])
    # None at all: the cache is written all the same.
    native.cache[:] = 0xFF
    chunk = Sequence(texts[0], 0, 69, [0, 1, 2])
    native.compute([chunk], [])
    last = native.step([Sequence(texts[0], 69, 1, [0, 1, 2])])
    assert np.array_equal(last[0], every[69])


def test_threads_and_blocks_change_no_bit() -> None:
    ids = some_ids(700)
    found = []
    for threads, block in ((1, 32), (2, 32), (3, 16)):
        torch.manual_seed(1)
        native = Native(MODELS["llama"](), 32, threads=threads, block=block)
        table = list(range(95, 95 - -(-len(ids) // block), -1))
        native.step([Sequence(ids, 0, 690, table)])
        found.append(native.step([Sequence(ids, 690, 1, table)]))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_what_cannot_be_is_refused_with_a_line() -> None:
    native = Native(MODELS["llama"](), 64)
    for broken, message in (
        (Sequence([500], 0, 1, [0]), "vocabulary"),
        (Sequence([1] * 40, 0, 40, [0]), "fewer blocks"),
        (Sequence([1], 0, 1, [96]), "outside the cache"),
        (Sequence([1] * 3000, 0, 3000, [0] * 100), "rotary"),
    ):
        with pytest.raises(ValueError, match=message):
            native.step([broken])
    with pytest.raises(ValueError, match="rows"):
        native.decoder.set_matrix(
            Which.HEAD,
            0,
            packing := Packing(Kind.I4, Layout.STACKED, 32, 128, 64),
            aligned(packed_bytes(packing)),
        )
    with pytest.raises(ValueError, match="whole groups"):
        packed_bytes(Packing(Kind.I4, Layout.STACKED, 32, 100, 64))
    with pytest.raises(RuntimeError, match="matrix"):
        Decoder(native.shape, 1).step(
            token_ids=np.array([1], np.int64),
            past_lens=np.array([0], np.int32),
            subsequence_begins=np.array([0, 1], np.int32),
            block_indices=np.array([0], np.int32),
            block_indices_begins=np.array([0, 1], np.int32),
            rows=np.array([], np.int32),
            cache=native.cache,
        )


def test_phases_are_the_time_of_the_steps() -> None:
    native = Native(MODELS["llama"](), 64)
    assert not any(native.decoder.phases_s().values())
    began = time.perf_counter()
    native.step([Sequence(some_ids(200), 0, 200, list(range(10)))])
    took = time.perf_counter() - began
    phases = native.decoder.phases_s()
    assert all(seconds > 0 for seconds in phases.values())
    assert sum(phases.values()) < took


def test_the_peak_is_reported_for_what_the_cpu_has(isa: Isa) -> None:
    assert library.peak_products_s(isa) > 1e9
    assert library.peak_products_s(Isa.BEST) == 0  # it names no instruction set
