"""Checkpoints as they are published, in the lean decoder: codes to the value, or a line that says why not.

By torch's operations; `test_code_kernels` has the kernels.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.models.backends.lean import joined
from penstock.models.backends.lean import published as lean_published
from penstock.models.backends.lean.products import linear
from penstock.models.backends.lean.weights import matrices
from penstock.models.catalogue import footprint
from penstock.models.devices import Cpu
from penstock.models.loading import checkpoint
from penstock.models.spec import ModelSpec
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.published.floats import mxfp4
from tests.fixtures import published
from tests.fixtures.lean import COMMON, module_of, weights_of
from tests.fixtures.models import randomise, write_model
from tests.integration.models.published.test_published_checkpoints import FORMATS, GPTQ, coded

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.loading.assembled import Assembled


class WithFp8(Cpu):
    """A CPU that says it had the units: torch's operations then compute what these would."""

    def lacks_fp8(self) -> str | None:
        return None


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
WAYS: dict[str, tuple[dict[str, Any], Any, str]] = FORMATS | {
    "fp8 in blocks of 128": (FP8, lambda _, weight: published.fp8(weight, 128), "fp8"),
}
KEPT = {
    *("gptq", "gptq of a row", "gptq with zeros", "gptq in act-order", "gptq, second version"),
    *("awq", "auto-round in 3 bit", "auto-round as gptq", "auto-round as awq"),
    *("compressed-tensors w4a16", "compressed-tensors fp8", "fp8 in blocks of 128"),
    "torchao int4",
}
OFFSETS = {"torchao int4"}
"""Kept as zeros, which gives the values but for the last bits of float32."""
PARTLY = {"auto-round, mixed bits"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with layers of 128 and 256 columns."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    made: Any = LlamaConfig
    config = made(**COMMON | sizes, tie_word_embeddings=False)
    path = tmp_path_factory.mktemp("plain") / "plain"
    return write_model(path, randomise(LlamaForCausalLM(config)))


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec("m", "m-cuda", "cuda", None, folder, "transformers")


def attempt(folder: Path) -> Assembled | None:
    spec = spec_of(folder)
    assert lean_published.applies(spec)
    module = checkpoint.load_module(spec, checkpoint.load_config(spec), torch.float32)
    return lean_published.attempt(spec, module, WithFp8(), lambda share, what: None)


@pytest.mark.parametrize("name", WAYS)
def test_codes_are_held_as_they_are_published(plain, tmp_path, caplog, name):
    quantised, convert, label = WAYS[name]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert)
    loaded = attempt(folder)
    if name not in KEPT | PARTLY:
        assert loaded is None
        says = (
            f"m-cuda: its codes ({label}) are computed as values: no kernel here computes with such"
        )
        assert says in caplog.text
        return
    assert loaded is not None
    assert loaded.running == "lean"
    assert loaded.format == (f"{label}+fp32" if name in PARTLY else label)
    assert (loaded.kept.label, loaded.kept.error) == (label, 0.0)
    model: Any = loaded.model
    meant, shape = Checkpoint(dense), model.body.shape
    for form, layer in zip(shape.model.layers, weights_of(loaded).layers, strict=True):
        held = dict(matrices(layer))
        for one in joined.of_layer(form, shape.sizes.hidden_size):
            values = [meant.tensor(f"{matrix}.weight").float() for matrix, _ in one.matrices]
            own = held[one.which]
            if name in KEPT:
                assert not isinstance(own, linear.Dense)
            weight = own.weight if isinstance(own, linear.Dense) else own.widen(torch.float32)
            if name in OFFSETS:
                assert torch.allclose(weight, torch.cat(values), rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(weight, torch.cat(values))


@pytest.mark.parametrize("name", ["gptq", "awq", "fp8 in blocks of 128", "bitsandbytes nf4"])
def test_the_memory_of_codes_is_foretold(plain, tmp_path, name):
    quantised, convert, _ = WAYS[name]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert)
    foretold = footprint.measure(spec_of(folder)).weights_bytes
    loaded = attempt(folder)
    if loaded is None:
        assert foretold > 0.5 * footprint.measure(spec_of(dense)).weights_bytes
    else:
        assert foretold == pytest.approx(loaded.weights_bytes, rel=0.05)


@pytest.mark.parametrize("name", ["gptq", "gptq in act-order", "fp8 in blocks of 128"])
def test_heads_of_any_size_keep_their_codes(tmp_path, name):
    """The probe at the load compares them with the values; FP8's groups of attention's result are cut."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 48}
    made: Any = LlamaConfig
    base = write_model(tmp_path / "base", randomise(LlamaForCausalLM(made(**COMMON | sizes))))
    quantised, convert, label = WAYS[name]
    folder, _ = published.write(base, tmp_path / "m", quantised, convert)
    loaded = attempt(folder)
    assert loaded is not None
    assert loaded.format == (f"{label}+fp32" if label == "fp8" else label)
    layer = weights_of(loaded).layers[0]
    assert not isinstance(layer.qkv, linear.Dense)
    if label != "fp8":
        assert (layer.out.inputs, layer.out.shape) == (4 * 64, (128, 4 * 48))


def test_matrices_of_one_input_in_several_orders_are_held_as_values(plain, tmp_path):
    orders = [coded(published.gptq, 4, 64, symmetric=True, shuffled=seed) for seed in range(1, 4)]

    def convert(name: str, weight: torch.Tensor) -> Any:
        return orders["qkv".find(name[-13]) if "self_attn.o" not in name and "attn" in name else 0](
            name, weight
        )

    folder, _ = published.write(plain, tmp_path / "m", GPTQ, convert)
    loaded = attempt(folder)
    assert loaded is not None
    assert loaded.format == "gptq-int4+fp32"
    layer = weights_of(loaded).layers[0]
    assert isinstance(layer.qkv, linear.Dense)
    assert layer.gate_up.order is not None


EXPERTS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight", *(f".w{n}.weight" for n in (1, 2, 3)))  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("name", ["gptq", "awq", "fp8 in blocks of 128", "gptq in 8 bit"])
@pytest.mark.parametrize("kind", BASES)
def test_experts_are_held_as_they_are_published(tmp_path, monkeypatch, caplog, kind, name):
    made: Any = CONFIG_MAPPING[kind]
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
    module = AutoModelForCausalLM.from_config(made(**COMMON | sizes | BASES[kind]))
    base = write_model(tmp_path / "base", randomise(module, std=0.2))
    quantised, convert, label = WAYS[name]
    monkeypatch.setattr(published, "ENDS", ("proj.weight", *EXPERTS))
    folder, dense = published.write(base, tmp_path / "m", quantised, convert)
    loaded = attempt(folder)
    if name == "gptq in 8 bit":
        assert loaded is None
        assert "are computed as values" in caplog.text
        return
    assert loaded is not None
    assert loaded.format == label
    meant: Any = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    for index, layer in enumerate(weights_of(loaded).layers):
        experts: Any = meant.model.layers[index].mlp.experts
        assert torch.equal(layer.experts.gate_up.widen(torch.float32), experts.gate_up_proj)
        assert torch.equal(layer.experts.down.widen(torch.float32), experts.down_proj)


def test_mxfp4_is_held_as_it_is_published(tmp_path):
    base = write_model(tmp_path / "base", module_of("gpt-oss, 64 each"))
    state = load_file(base / "model.safetensors")
    stored, meant = dict(state), dict[str, torch.Tensor]()
    generator = torch.Generator().manual_seed(3)
    for key in [key for key in state if key.endswith(("gate_up_proj", "down_proj"))]:
        count, columns, rows = state[key].shape
        size = (count, rows, columns // 32)
        blocks = torch.randint(0, 256, (*size, 16), generator=generator).to(torch.uint8)
        scales = torch.randint(122, 126, size, generator=generator).to(torch.uint8)
        del stored[key]
        stored |= {f"{key}_blocks": blocks, f"{key}_scales": scales}
        meant[key] = mxfp4(blocks, scales)
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (base / "config.json").write_text(json.dumps(config))
    loaded = attempt(base)
    assert loaded is not None
    assert (loaded.format, loaded.kept.error) == ("mxfp4", 0.0)
    for index, layer in enumerate(weights_of(loaded).layers):
        name = f"model.layers.{index}.mlp.experts"
        assert torch.equal(
            layer.experts.gate_up.widen(torch.float32), meant[f"{name}.gate_up_proj"]
        )
        assert torch.equal(layer.experts.down.widen(torch.float32), meant[f"{name}.down_proj"])
