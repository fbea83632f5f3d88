"""The native backend from a checkpoint: logits, hidden states, promises, files, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library, loading, pages
from penstock.models.backends.native.matrix import packed_version
from penstock.models.catalogue import footprint
from penstock.models.spec import ModelSpec
from penstock.models.weights import conversion, matrices, q4_0
from tests.fixtures.models import randomise, write_model

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.loading.assembled import Assembled

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
MODELS = {
    "llama-tied-biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "qwen3-wide-heads": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=64)),
}
FORMS = ("sym_int4", "int4", "int8")


def spec_of(path: Path, form: str | None, **more: Any) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "native", format=form, **more)


def loaded(spec: ModelSpec, said: list[str] | None = None) -> Assembled:
    told = said if said is not None else []
    assembled = loading.load(spec, lambda share, what: told.append(what))
    assembled.model.allocate(24)
    return assembled


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = randomise(MODELS[request.param](), std=0.08)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return write_model(tmp_path_factory.mktemp("native") / request.param, model)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = randomise(LlamaForCausalLM(LlamaConfig(**SIZES)), std=0.08)
    return write_model(tmp_path_factory.mktemp("native") / "llama", model)


def tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 500, count).tolist()


def whole(model: Any, ids: list[int]) -> torch.Tensor:
    return model.forward(Batch((SequenceSlice(0, ids, 0, list(range(10)), 0),)))


def dequantised(path: Path, form: str) -> Any:
    """Transformers' module, in fp32, with the weights that the format stands for."""
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if module.lm_head.weight is module.model.embed_tokens.weight:  # the table itself stays as it is
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                matrix = getattr(matrices, form)(layer.weight)
                if matrix.kind == "i4":
                    weight = q4_0.dequantize(matrix.values, matrix.scales)
                else:
                    weight = matrix.values.astype(np.float32) * matrix.scales
                layer.weight.copy_(torch.from_numpy(weight))
    return module


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_same_weights_in_fp32(folder: Path, form: str) -> None:
    ids = tokens(150, 1)
    with torch.inference_mode():
        output = dequantised(folder, form)(torch.tensor([ids]), output_hidden_states=True)
    assembled: Any = loaded(spec_of(folder, form))
    part = SequenceSlice(0, ids, 0, list(range(10)), 0)
    logits, hidden = assembled.model.forward_hidden(Batch((part,)))

    assert relative_error(logits, output.logits[0]) < 0.03  # the activations are in INT8
    assert relative_error(hidden, output.hidden_states[-1][0]) < 0.03
    assert torch.equal(logits, assembled.model.forward(Batch((part,))))
    openvino = pytest.importorskip(
        "penstock.models.backends.openvino", reason="openvino is not installed"
    )
    pytest.importorskip("openvino", reason="openvino is not installed")
    theirs = openvino.load(spec_of(folder, form), lambda *_: None).model
    theirs.allocate(24)
    error = relative_error(whole(theirs, ids), output.logits[0])
    assert relative_error(logits, output.logits[0]) < 1.5 * error


def test_neither_chunks_nor_neighbours_nor_threads_change_a_bit(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, other = tokens(100, 1), tokens(60, 2)
    model = loaded(spec_of(llama, "sym_int4")).model
    alone = whole(model, ids)
    one, two = [12, 3, 15, 4, 9, 0, 7], [1, 2, 5, 6]
    first = model.forward(Batch((SequenceSlice(0, ids[:37], 0, one, 0),)))
    second = model.forward(
        Batch((SequenceSlice(1, other, 0, two, 60), SequenceSlice(0, ids[37:99], 37, one, 0)))
    )
    third = model.forward(
        Batch((SequenceSlice(0, ids[99:], 99, one, 0), SequenceSlice(1, [5], 60, two, 0)))
    )
    assert torch.equal(torch.cat((first, second, third[:1])), alone)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(whole(loaded(spec_of(llama, "sym_int4")).model, ids), alone)


@pytest.mark.parametrize("form", FORMS)
def test_the_second_load_maps_what_the_first_packed(
    llama: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "WORTH_BYTES", 0)
    plain = spec_of(llama, form)
    kept = replace(plain, converted_dir=tmp_path, converted_limit_bytes=1 << 30)
    said: list[list[str]] = [[], [], []]
    found = [loaded(spec, said[place]) for place, spec in enumerate((plain, kept, kept))]
    ids = tokens(40, 3)
    first, *others = [whole(assembled.model, ids) for assembled in found]

    assert all(torch.equal(first, other) for other in others)
    assert len({(one.parameters, one.weights_bytes) for one in found}) == 1
    assert [any("once" in what for what in whats) for whats in said] == [False, True, False]
    (file,) = tmp_path.glob("*.weights")
    assert f"native{packed_version()}-{form}" in file.name


@pytest.mark.parametrize("wanted", [True, False])
def test_weights_are_copied_into_large_pages_only_where_that_is_wanted(
    llama: Path, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    copied: list[int] = []
    monkeypatch.setattr(pages, "available", lambda: True)
    monkeypatch.setattr(pages, "copied", lambda packed: copied.append(1) or packed)
    loaded(replace(spec_of(llama, "sym_int4"), large_pages=wanted))
    assert bool(copied) == wanted


def test_a_low_bit_folder_keeps_its_bits(llama: Path, tmp_path: Path) -> None:
    """Blocks of bigdl-llm's, made here by its rule: scale, low nibbles, high nibbles."""
    module = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    state = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            packed, scales = q4_0.quantize(layer.weight.detach())
            values = np.empty((*scales.shape, q4_0.BLOCK), np.uint8)
            pairs = (packed ^ 0x88).reshape(*scales.shape, q4_0.BLOCK // 2)
            values[..., 0::2], values[..., 1::2] = pairs & 15, pairs >> 4
            nibbles = values[..., :32] | (values[..., 32:] << 4)
            head = np.ascontiguousarray(scales)[..., None].view(np.uint8)
            blocks = np.concatenate((head, nibbles), axis=-1)
            state[f"{name}.weight"] = torch.from_numpy(blocks.reshape(-1))
    module.config.update({"bigdl_transformers_low_bit": "sym_int4"})
    module.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    ids = tokens(40, 3)
    from_folder = loaded(spec_of(tmp_path, None, low_bit_folder=True))
    assert from_folder.format == "sym_int4"
    assert torch.equal(
        whole(from_folder.model, ids), whole(loaded(spec_of(llama, "sym_int4")).model, ids)
    )


def test_a_chunk_without_wanted_rows_gives_none(llama: Path) -> None:
    model = loaded(spec_of(llama, "int8")).model
    assert model.forward(Batch((SequenceSlice(0, [3, 4], 0, [0], 2),))).shape == (0, 512)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"format": "fp8"}, "native holds sym_int4, int4, int8"),
        ({"device": "cuda"}, "on CPUs only"),
    ],
)
def test_what_it_cannot_do_is_one_line(llama: Path, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelNotLoadable, match=says) as refused:
        loading.load(replace(spec_of(llama, "int8"), **spec), lambda *_: None)
    assert "\n" not in str(refused.value)


def test_unknown_architectures_and_uneven_groups_are_refused(tmp_path: Path) -> None:
    other = write_model(
        tmp_path / "gpt2", GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2))
    )
    with pytest.raises(
        ModelNotLoadable, match="not for the native backend: the architecture 'gpt2'"
    ):
        loading.load(spec_of(other, "int8"), lambda *_: None)
    uneven = LlamaConfig(**{**SIZES, "intermediate_size": 200})
    path = write_model(tmp_path / "uneven", LlamaForCausalLM(uneven))
    with pytest.raises(ModelNotLoadable, match="200 columns are no whole groups"):
        loading.load(spec_of(path, "sym_int4"), lambda *_: None)
    assert whole(loaded(spec_of(path, "int8")).model, [3, 4, 5]).shape == (3, 512)


def test_a_library_that_is_not_there_or_too_old_a_cpu_is_one_line(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "best_isa", lambda: None)
    with pytest.raises(ModelNotLoadable, match="needs a CPU with AVX2"):
        loading.load(spec_of(llama, "int8"), lambda *_: None)
    monkeypatch.undo()
    library.library.cache_clear()
    monkeypatch.setattr(library, "PATH", tmp_path / "libpenstock_native.so")
    with pytest.raises(ModelNotLoadable, match=r"libpenstock_native\.so: cannot open") as refused:
        loading.load(spec_of(llama, "int8"), lambda *_: None)
    assert "\n" not in str(refused.value)
    library.library.cache_clear()


@pytest.mark.parametrize("form", [*FORMS, None])
def test_the_footprint_estimated_beforehand_is_what_a_model_takes(
    folder: Path, form: str | None
) -> None:
    spec = spec_of(folder, form)
    told, assembled = footprint.measure(spec), loading.load(spec, lambda *_: None)
    layout = assembled.model.kv_layout
    assert told.weights_bytes == pytest.approx(assembled.weights_bytes, rel=0.05)
    assert told.context_length == SIZES["max_position_embeddings"]
    assert told.kv_bytes == layout.bytes_per_block * told.context_length // layout.block_size
