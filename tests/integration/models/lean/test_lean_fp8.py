"""FP8 in the lean decoder: what is rounded, what is held, what is refused. By torch's operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.lean.products import fp8, fp8_check, low_bit
from penstock.models.backends.lean.products.linear import Dense, Fp8, Fp8Blocks, Int4, Linear
from penstock.models.backends.tensor_parallel.part import Part
from penstock.models.catalogue import footprint
from penstock.models.catalogue.resolve import resolve
from penstock.models.devices import Cpu
from penstock.models.loading import checkpoint
from penstock.models.spec import ModelSpec
from penstock.settings import Settings
from tests.fixtures.lean import COMMON, module_of, weights_of
from tests.fixtures.models import randomise, write_model

CPU = torch.device("cpu")


class WithFp8(Cpu):
    """A CPU that says it had the units: torch's operations then compute what these would."""

    def lacks_fp8(self) -> str | None:
        return None


def spec_of(path: Any) -> ModelSpec:
    return ModelSpec("m", "m-cuda", "cuda", None, path, "transformers", format="fp8")


def quiet(share: float, what: str) -> None:
    del share, what


def test_a_row_is_rounded_by_its_own_scale():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 256, generator=generator) * torch.logspace(-3, 3, 5)[:, None]
    x[2] = 0
    values, scales = fp8.round_rows(x)
    assert values.dtype == torch.float8_e4m3fn
    assert values.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448, 448]
    found = values.float() * scales[:, None]
    assert ((found - x).abs() <= x.abs() / 16 + scales[:, None] * 2**-10).all()
    for row in range(5):  # alone as among others
        alone, scale = fp8.round_rows(x[row : row + 1])
        assert torch.equal(alone[0].view(torch.uint8), values[row].view(torch.uint8))
        assert scale == scales[row]


@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_that_of_what_was_rounded(biased):
    generator = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(count, 64, generator=generator) for count in (48, 7))
    bias = torch.randn(48, generator=generator) if biased else None
    linear = fp8.hold(Dense(weight, bias), CPU, torch.float32)
    assert isinstance(linear, Fp8)
    assert linear.nbytes == 48 * (64 + 4)
    values, scales = fp8.round_rows(x)
    rounded = values.float() * scales[:, None]
    wanted = torch.nn.functional.linear(rounded, linear.widen(torch.float32), bias)
    assert torch.allclose(TorchOps().product(x, linear), wanted, rtol=1e-5, atol=1e-4)


def test_what_is_not_a_number_stays_so():
    x = torch.ones(3, 32)
    x[0, 3], x[1, 5] = float("nan"), float("inf")
    linear = fp8.hold(Dense(torch.ones(16, 32), None), CPU, torch.float32)
    out = TorchOps().product(x, linear)
    assert out[:2].isnan().all()
    assert out[2].isfinite().all()


def test_a_matrix_that_the_units_do_not_take_keeps_the_models_type():
    held = fp8.hold(Dense(torch.ones(40, 32), None), CPU, torch.bfloat16)
    assert isinstance(held, Dense)
    assert held.weight.dtype == torch.bfloat16


def test_a_checkpoint_is_held_in_fp8(tiny_llama):
    spec = spec_of(tiny_llama)
    found = low_bit.load(spec, WithFp8(), quiet)
    assert (found.backend, found.format, found.batching) == ("transformers", "fp8", "continuous")
    weights = weights_of(found)
    module = checkpoint.load_module(spec, checkpoint.load_config(spec), torch.bfloat16)
    wanted = fp8.hold(
        Dense(module.model.layers[1].mlp.down_proj.weight.data, None), CPU, torch.bfloat16
    )
    assert isinstance(wanted, Fp8)
    held = weights.layers[1].down
    assert torch.equal(held.weight.view(torch.uint8), wanted.weight.view(torch.uint8))
    assert torch.equal(held.scales, wanted.scales)
    assert isinstance(weights.head, Dense)
    assert weights.head.weight.dtype == weights.embeddings.dtype == torch.bfloat16
    assert found.weights_bytes == weights.nbytes
    assert footprint.measure(spec).weights_bytes == pytest.approx(weights.nbytes, rel=0.02)


def test_a_tied_head_is_held_once(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, tie_word_embeddings=True, max_position_embeddings=64,
    )  # fmt: skip
    write_model(tmp_path / "m", randomise(LlamaForCausalLM(config)))
    weights = weights_of(low_bit.load(spec_of(tmp_path / "m"), WithFp8(), quiet))
    assert weights.head.weight.data_ptr() == weights.embeddings.data_ptr()


def test_a_wrong_product_does_not_pass_the_probe(tiny_llama, monkeypatch):
    right = fp8.product

    def without_scales(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
        return right(x, replace(linear, scales=torch.full_like(linear.scales, 0.003)))

    monkeypatch.setattr(fp8, "product", without_scales)
    with pytest.raises(ModelNotLoadable, match="its logits in fp8 are wrong by"):
        low_bit.load(spec_of(tiny_llama), WithFp8(), quiet)


class OneWrongScale(TorchOps):
    """One row of every matrix by a quarter too large: the logits of the whole hardly show it."""

    def product(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        out = super().product(x, linear)
        if isinstance(linear, Fp8):
            out[:, 5] *= 1.25
        return out


def test_one_wrong_scale_of_a_matrix_is_found(tiny_llama, monkeypatch):
    spec = spec_of(tiny_llama)
    with monkeypatch.context() as patch:
        patch.setattr(low_bit, "check_products", lambda *_: None)
        patch.setattr(low_bit, "ops_for", lambda *_: OneWrongScale())
        low_bit.load(spec, WithFp8(), quiet)  # the probe lets it pass
    monkeypatch.setattr(low_bit, "ops_for", lambda *_: OneWrongScale())
    with pytest.raises(ModelNotLoadable, match=r"multiplies FP8 wrongly, by 0\.2"):
        low_bit.load(spec, WithFp8(), quiet)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_products_that_are_no_numbers_are_found(tiny_llama, monkeypatch, wrong):
    class Broken(TorchOps):
        def product(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
            return super().product(x, linear) * wrong

    monkeypatch.setattr(low_bit, "ops_for", lambda *_: Broken())
    with pytest.raises(ModelNotLoadable, match="multiplies FP8 wrongly"):
        low_bit.load(spec_of(tiny_llama), WithFp8(), quiet)


def test_matrices_of_zeros_are_no_error(tiny_llama):
    model: Any = low_bit.load(spec_of(tiny_llama), WithFp8(), quiet).model
    with torch.inference_mode():
        model.weights.layers[0].qkv.weight.zero_()
    assert fp8_check.product_error(TorchOps(), model.weights, torch.bfloat16) == 0


def test_parts_of_a_matrix_have_its_values_and_scales(tiny_llama):
    model: Any = low_bit.load(spec_of(tiny_llama), WithFp8(), quiet).model
    layer, shape = model.weights.layers[0], model.body.shape
    parts = [Part(shape, rank, 2) for rank in range(2)]
    cut: list[Any] = [part.layer(layer, CPU) for part in parts]
    for name, dim in (("down", 1), ("out", 1)):
        whole = getattr(layer, name).widen(torch.float32)
        halves = [getattr(one, name).widen(torch.float32) for one in cut]
        assert torch.equal(torch.cat(halves, dim), whole)
    gates = [one.gate_up.widen(torch.float32).chunk(2)[0] for one in cut]
    assert torch.equal(torch.cat(gates), layer.gate_up.widen(torch.float32).chunk(2)[0])


@pytest.fixture
def with_entry(models_dir, tmp_path) -> Settings:
    file = tmp_path / "models.toml"
    file.write_text(f"[models.m]\npath = '{models_dir / 'tiny-llama'}'\nformat = 'fp8'\n")
    return Settings(models_dir=models_dir, models_file=file)


def test_a_device_without_it_refuses(with_entry):
    spec = resolve("m-cpu", with_entry)
    assert (spec.backend, spec.format) == ("transformers", "fp8")
    says = r"queue 'm-cpu': format = 'fp8': a CPU multiplies no FP8; .* 'bf16' or 'sym_int4'"
    with pytest.raises(ModelNotLoadable, match=says):
        loader.load(spec, with_entry, slots=1, progress=quiet)


BACKENDS = {"fp8": "transformers", "sym_int4": "bigdl"}


def test_what_is_not_computed_is_refused_in_words(tmp_path):
    config: Any = transformers.LlamaConfig
    module = transformers.LlamaForCausalLM(config(**COMMON | {"head_dim": 320}))
    write_model(tmp_path / "m", randomise(module))
    says = r"no fp8 on cuda for this model \(heads of 320 elements\); serve it with format = 'bf16'"
    with pytest.raises(ModelNotLoadable, match=says):
        low_bit.load(spec_of(tmp_path / "m"), WithFp8(), quiet)


@pytest.mark.parametrize("form", BACKENDS)
@pytest.mark.parametrize(
    "name",
    [
        *("gemma2", "phi3", "cohere", "starcoder2", "olmo2"),
        *("qwen3, heads of 48", "llama, heads of 24"),
        *("qwen3-moe, 64 each", "gpt-oss, 64 each"),
    ],
)
def test_other_families_are_held_in_these_formats(tmp_path, form, name):
    """The probe at the load compares them with the module that has the same values."""
    write_model(tmp_path / "m", module_of(name))
    spec = replace(spec_of(tmp_path / "m"), backend=BACKENDS[form], format=form)
    found = low_bit.load(spec, WithFp8(), quiet)
    assert (found.format, found.running) == (form, "lean")
    experts = weights_of(found).layers[1].experts
    if experts is not None:
        kind = Fp8Blocks if form == "fp8" else Int4
        assert isinstance(experts.gate_up, kind)
        assert isinstance(experts.down, kind)
