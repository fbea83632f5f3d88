"""Paged, batched, chunked forwards against the model's own eager forward over whole sequences."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.backends.transformers.attention import PagedAttention
from penstock.models.backends.transformers.model import PagedModel
from tests.fixtures.models import randomise

CONTEXT = 256
BASE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "gqa": ("Llama", {}),
    "mha": ("Llama", {"num_key_value_heads": 4}),
    "sliding": ("Mistral", {"sliding_window": 21}),
    "sliding and full": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 19, "max_window_layers": 1},
    ),
    "softcap": ("Gemma2", {"sliding_window": 33, "head_dim": 16, "query_pre_attn_scalar": 16}),
    "sinks": (
        "GptOss",
        {"sliding_window": 20, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "chunked": (
        "Llama4Text",
        {
            "attention_chunk_size": 24,
            "num_local_experts": 1,
            "intermediate_size_mlp": 64,
            "layer_types": ["chunked_attention", "full_attention"],
        },
    ),
    "learned positions, scaled logits": ("Granite", {"logits_scaling": 3.0}),
    "keys wider than values": (
        "DeepseekV3",
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
        },
    ),
}


def build(name: str):
    import transformers

    kind, changes = ARCHITECTURES[name]
    config = getattr(transformers, f"{kind}Config")(**{**BASE, **changes})
    module = transformers.AutoModelForCausalLM.from_config(config)
    return randomise(module, seed=3, std=0.15)


def paged(module, *, ours: bool = True) -> PagedModel:
    """With attention by the native library where it is there and can, or by torch alone."""
    attention = PagedAttention()
    if not ours:
        attention.native = None
    elif attention.native is None:
        pytest.skip("no native library, or no kernels for this CPU")
    attention.register()
    module.set_attn_implementation(attention.name)
    return PagedModel(module, attention, torch.device("cpu"), CONTEXT)


@torch.inference_mode()
def plain(module, token_ids) -> torch.Tensor:
    name = module.config._attn_implementation
    module.set_attn_implementation("eager")
    logits = module(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].float()
    module.set_attn_implementation(name)
    return logits


@dataclass
class Run:
    """A sequence that is being computed: its tokens, its blocks, the logits so far."""

    key: int
    tokens: list[int]
    table: list[int]
    done: int = 0
    logits: list[torch.Tensor] = field(default_factory=list)

    def take(self, count: int) -> SequenceSlice:
        end = min(len(self.tokens), self.done + count)
        part = SequenceSlice(
            key=self.key,
            token_ids=self.tokens[self.done : end],
            start=self.done,
            block_table=self.table[: (end - 1) // BLOCK_SIZE + 1],
            logits_from=0,
        )
        self.done = end
        return part


def draw(lengths, *, seed=0) -> list[Run]:
    """Sequences of these lengths, their blocks dealt out in a random order."""
    source = random.Random(seed)
    blocks = list(range(sum(length // BLOCK_SIZE + 1 for length in lengths)))
    source.shuffle(blocks)
    return [
        Run(
            key,
            [source.randrange(128) for _ in range(length)],
            [blocks.pop() for _ in range(length // BLOCK_SIZE + 1)],
        )
        for key, length in enumerate(lengths)
    ]


def step(model, parts) -> None:
    """One forward of (run, slice) pairs; each run gets its rows."""
    logits = model.forward(Batch([part for _, part in parts]))
    sizes = [len(part.token_ids) - part.logits_from for _, part in parts]
    assert logits.shape == (sum(sizes), model.vocab_size)
    assert logits.dtype == torch.float32
    for (run, _), rows in zip(parts, logits.split(sizes), strict=True):
        run.logits.append(rows)


def drive(model, runs, *, seed=0, longest_chunk=40) -> None:
    """Compute all runs in random steps: some wait, some prefill a chunk, some decode one token."""
    source = random.Random(seed)
    model.allocate(sum(len(run.table) for run in runs))
    while pending := [run for run in runs if run.done < len(run.tokens)]:
        chosen = [run for run in pending if source.random() < 0.7] or pending[:1]
        counts = [source.choice((1, 1, 1, source.randint(2, longest_chunk))) for _ in chosen]
        step(model, [(run, run.take(n)) for run, n in zip(chosen, counts, strict=True)])


@pytest.mark.parametrize("ours", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_schedule_gives_the_logits_of_one_plain_forward(name, ours):
    module = build(name)
    model = paged(module, ours=ours)
    runs = draw([1, 15, 16, 17, 50, 90], seed=1)
    drive(model, runs, seed=2)
    for run in runs:
        torch.testing.assert_close(
            torch.cat(run.logits), plain(module, run.tokens), rtol=1e-3, atol=1e-3
        )


@pytest.fixture(scope="module", params=[True, False], ids=["native", "torch"])
def llama(request):
    return paged(build("gqa"), ours=request.param)


def test_sequences_of_very_different_length_decode_together(llama):
    runs = draw([250, 3, 120, 30, 2, 64, 200], seed=4)
    llama.allocate(sum(len(run.table) for run in runs))
    for run in runs:
        step(llama, [(run, run.take(len(run.tokens) - 1))])
    step(llama, [(run, run.take(1)) for run in runs])
    for run in runs:
        torch.testing.assert_close(
            torch.cat(run.logits), plain(llama.module, run.tokens), rtol=1e-3, atol=1e-3
        )


def test_a_batch_gives_what_each_sequence_gives_alone(llama):
    together, alone = draw([40, 41, 9], seed=5), draw([40, 41, 9], seed=5)
    llama.allocate(16)
    step(llama, [(run, run.take(100)) for run in together])
    llama.allocate(16)
    for run in alone:
        step(llama, [(run, run.take(100))])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.logits[0], other.logits[0], rtol=1e-4, atol=1e-4)


def test_only_the_wanted_rows_come_back_in_the_slices_order(llama):
    first, second, third = draw([20, 20, 20], seed=6)
    llama.allocate(8)
    wanted = [plain(llama.module, run.tokens) for run in (first, second, third)]

    def part(run, start, end, logits_from):
        return SequenceSlice(run.key, run.tokens[start:end], start, run.table, logits_from)

    none = llama.forward(Batch([part(first, 0, 10, 10), part(second, 0, 19, 19)]))
    assert none.shape == (0, 128)
    got = llama.forward(
        Batch([part(third, 0, 20, 18), part(second, 19, 20, 0), part(first, 10, 20, 10)])
    )
    expected = torch.cat((wanted[2][18:], wanted[1][19:]))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_a_sequence_cannot_be_spoilt_by_anothers_nan(llama):
    short, long = draw([5, 100], seed=8)
    llama.allocate(len(short.table) + len(long.table))
    step(llama, [(short, short.take(4)), (long, long.take(99))])
    for layer in llama.attention.caches.layers.values():
        for block in long.table:
            layer.keys[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = float("nan")
            layer.values[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = float("nan")
    step(llama, [(short, short.take(1)), (long, long.take(1))])
    torch.testing.assert_close(
        short.logits[1][0], plain(llama.module, short.tokens)[-1], rtol=1e-3, atol=1e-3
    )


def test_a_block_costs_what_it_holds(llama):
    # 2 layers x 2 KV heads x 16 x (key + value) x 4 bytes a token
    assert llama.kv_layout.block_size == BLOCK_SIZE
    assert llama.kv_layout.bytes_per_block == BLOCK_SIZE * 2 * 2 * 16 * 2 * 4


def test_too_large_a_cache_is_a_memory_error(llama):
    with pytest.raises(MemoryError, match="MiB of KV cache"):
        llama.allocate(2**44)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 4.0},
        {
            "rope_type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
            "original_max_position_embeddings": 32,
        },
    ],
    ids=["dynamic", "longrope"],
)
def test_a_long_neighbour_does_not_turn_a_short_sequences_rotation(scaling):
    from transformers import LlamaConfig, LlamaForCausalLM

    from penstock.models.backends.transformers import rope

    changes = {
        "rope_parameters": {"rope_theta": 10_000.0, **scaling},
        "max_position_embeddings": 64,
    }
    config = LlamaConfig(**{**BASE, **changes})
    module = randomise(LlamaForCausalLM(config), seed=3, std=0.15)
    rope.freeze(module, 128)
    model = paged(module)
    short, long = draw([20, 120], seed=9)
    alone = plain(module, short.tokens)
    model.allocate(16)
    step(model, [(long, long.take(120)), (short, short.take(20))])
    torch.testing.assert_close(short.logits[0], alone, rtol=1e-3, atol=1e-3)
