"""Checkpoints as hubs hold them: what each stands for is what is computed with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends import suitability
from penstock.models.catalogue.resolve import resolve
from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.published.integers import Integers
from penstock.settings import Settings
from tests.fixtures import published
from tests.fixtures.models import randomise, write_model
from tests.fixtures.rounded import RoundedActivations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = [5, 300, 17, 42, 99, 256, 11, 7, 401]
Made = tuple[published.Tensors, torch.Tensor]


def coded(
    layout: Callable[..., published.Tensors], bits: int, group: int, *, symmetric: bool, **how: Any
) -> Any:
    """A conversion into codes, in one of the fixture's layouts."""
    shuffled = how.pop("shuffled", None)
    if layout is published.compressed:
        how["symmetric"] = symmetric

    def convert(name: str, weight: torch.Tensor) -> Made:
        own = 8 if how.get("mixed") and "down_proj" in name else bits
        rest = {key: value for key, value in how.items() if key != "mixed"}
        found = published.codes_of(weight, own, group, symmetric=symmetric, shuffled=shuffled)
        return layout(found, **rest), found.values

    return convert


GPTQ = {"quant_method": "gptq", "bits": 4}
CT = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def groups(bits: int, kind: str = "int") -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


FORMATS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "torchao int8": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
        coded(published.torchao_int8, 8, -1, symmetric=True),
        "torchao-int8",
    ),
    "torchao intx": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "IntxWeightOnlyConfig"}}},
        coded(published.torchao_int8, 4, 32, symmetric=False),
        "torchao-intx",
    ),
    "torchao int4": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        coded(published.torchao_int4, 4, 64, symmetric=False),
        "torchao-int4",
    ),
    "gptq": (GPTQ, coded(published.gptq, 4, 64, symmetric=True), "gptq-int4"),
    "gptq of a row": (GPTQ, coded(published.gptq, 4, -1, symmetric=True), "gptq-int4"),
    "gptq with zeros": (GPTQ, coded(published.gptq, 4, 32, symmetric=False), "gptq-int4"),
    "gptq in act-order": (
        {**GPTQ, "desc_act": True},
        coded(published.gptq, 4, 32, symmetric=False, shuffled=1),
        "gptq-int4",
    ),
    "gptq, second version": (
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        coded(published.gptq, 4, 64, symmetric=False, added=0),
        "gptq-int4",
    ),
    "gptq in 8 bit": (
        {**GPTQ, "bits": 8},
        coded(published.gptq, 8, 128, symmetric=False),
        "gptq-int8",
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "version": "gemm"},
        coded(published.awq, 4, 64, symmetric=False),
        "awq-int4",
    ),
    "auto-round, mixed bits": (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round"},
        coded(published.gptq, 4, 128, symmetric=True, added=0, act_order=False, mixed=True),
        "auto-round-int4",
    ),
    "auto-round in 3 bit": (
        {"quant_method": "auto-round", "bits": 3, "packing_format": "auto_round"},
        coded(published.gptq, 3, 64, symmetric=False, added=0, act_order=False),
        "auto-round-int3",
    ),
    "auto-round as gptq": (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"},
        coded(published.gptq, 4, 64, symmetric=True),
        "auto-round-int4",
    ),
    "auto-round as awq": (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_awq"},
        coded(published.awq, 4, 64, symmetric=False),
        "auto-round-int4",
    ),
    "compressed-tensors w4a16": (
        {**CT, **groups(4)},
        coded(published.compressed, 4, 64, symmetric=True),
        "compressed-tensors-int4",
    ),
    "compressed-tensors w8a16 with zeros": (
        {**CT, **groups(8)},
        coded(published.compressed, 8, 64, symmetric=False),
        "compressed-tensors-int8",
    ),
    "compressed-tensors w8a8": (
        {**CT, "format": "int-quantized", **groups(8)},
        lambda name, weight: published.by_row(weight, torch.int8),
        "compressed-tensors-int8",
    ),
    "compressed-tensors fp8": (
        {**CT, "format": "float-quantized", **groups(8, "float")},
        lambda name, weight: published.by_row(weight, torch.float8_e4m3fn),
        "compressed-tensors-fp8",
    ),
    "fp8 in blocks": (
        {"quant_method": "fp8", "weight_block_size": [96, 96]},
        lambda name, weight: published.fp8(weight, 96),
        "fp8",
    ),
    "bitsandbytes nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        lambda name, weight: published.nf4(weight),
        "bitsandbytes-nf4",
    ),
}
VALUES = {"compressed-tensors fp8", "fp8 in blocks", "bitsandbytes nf4"}
"""Formats whose codes are no integers: on CPUs they are computed as the values that they stand for."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with layers of 128 and 256 columns."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    path = tmp_path_factory.mktemp("plain") / "plain"
    return write_model(path, randomise(LlamaForCausalLM(config)))


def load(folder: Path, queue: str = "", **entry: Any) -> loader.LoadedModel:
    models_file = folder.parent / "models.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    models_file.write_text("\n".join((f"[models.{folder.name}]", *lines)))
    settings = Settings(models_dir=folder.parent, models_file=models_file, threads=1)
    spec = resolve(queue or f"{folder.name}-cpu", settings)
    return loader.load(spec, settings, slots=2, progress=lambda share, what: None)


def logits(loaded: loader.LoadedModel) -> torch.Tensor:
    return loaded.model.forward(Batch([SequenceSlice(1, TOKENS, 0, [0], 0)]))


def distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    spread = expected - expected.mean(-1, keepdim=True)
    return float((got - expected).norm() / spread.norm())


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_checkpoint_is_computed_as_what_it_stands_for(plain, tmp_path, name):
    quantised, convert, label = FORMATS[name]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert)
    expected = logits(load(dense, backend="transformers"))
    widened = load(folder, backend="transformers", format="fp32")
    assert (widened.card.stored, widened.card.weight_error) == (label, 0.0)
    assert distance(logits(widened), expected) < 1e-5

    own = load(folder)
    if name in VALUES or not suitability.has_native():
        assert (own.card.backend, own.card.stored) == ("transformers", label)
        return
    assert (own.card.backend, own.card.running) == ("native", "native")
    assert own.card.format == f"{label}+int8"  # the head, which is not quantised
    assert own.card.weight_error is not None
    assert 0 < own.card.weight_error < 0.008
    assert distance(logits(own), expected) < 0.06  # activations in 8 bit


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in VALUES])
def test_kernels_hold_codes_to_the_value(plain, tmp_path, name):
    """Against Transformers' module of the values, its activations rounded as the kernels round them."""
    if not suitability.has_native():
        pytest.skip("there are no native kernels")
    quantised, convert, label = FORMATS[name]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert, head=True)
    own = load(folder)
    assert (own.card.format, own.card.weight_error) == (label, 0.0)
    codes = Checkpoint(folder).stored("model.layers.0.mlp.up_proj.weight")
    assert isinstance(codes, Integers)
    module = LlamaForCausalLM.from_pretrained(dense, dtype=torch.float32)
    with torch.inference_mode(), RoundedActivations(min(codes.group, 128)):
        expected = module(input_ids=torch.tensor([TOKENS])).logits[0]
    assert (
        distance(logits(own), expected) < 0.05
    )  # one activation in some hundreds rounds to its neighbour


def test_matrices_of_one_input_in_several_widths_are_held_in_the_widest(plain, tmp_path):
    four, eight = (coded(published.gptq, bits, 64, symmetric=True) for bits in (4, 8))

    def convert(name: str, weight: torch.Tensor) -> Made:
        return (eight if "v_proj" in name or "up_proj" in name else four)(name, weight)

    folder, dense = published.write(plain, tmp_path / "m", GPTQ, convert, head=True)
    own = load(folder)
    if suitability.has_native():
        assert (own.card.format, own.card.weight_error) == ("gptq-int4", 0.0)
    assert distance(logits(own), logits(load(dense, format="fp32"))) < 0.06


def test_matrices_of_one_input_in_several_orders_are_held_in_int8(plain, tmp_path):
    orders = [coded(published.gptq, 4, 64, symmetric=True, shuffled=seed) for seed in range(1, 4)]

    def convert(name: str, weight: torch.Tensor) -> Made:
        return orders["qkv".find(name[-13]) if "self_attn.o" not in name and "attn" in name else 0](
            name, weight
        )

    folder, dense = published.write(plain, tmp_path / "m", GPTQ, convert, head=True)
    own = load(folder)
    if suitability.has_native():
        assert own.card.format == "gptq-int4+int8"
        assert own.card.weight_error is not None
        assert 0 < own.card.weight_error < 0.008
    assert distance(logits(own), logits(load(dense, format="fp32"))) < 0.06


def test_16_bit_reports_what_it_costs(plain, tmp_path):
    quantised, convert, _ = FORMATS["gptq"]
    folder, _ = published.write(plain, tmp_path / "m", quantised, convert)
    card = load(folder, format="bf16").card
    assert (card.backend, card.format, card.stored) == ("transformers", "bf16", "gptq-int4")
    assert card.weight_error is not None
    assert 1e-4 < card.weight_error < 3e-3


def test_a_bigdl_name_means_its_4_bit_and_reports_what_that_costs(plain, tmp_path):
    quantised, convert, label = FORMATS["awq"]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert)
    own, meant = load(folder, "bigdl-m-cpu"), load(dense, "bigdl-m-dense-cpu")
    assert (own.card.format, own.card.stored) == ("sym_int4", label)
    assert own.card.weight_error is not None
    assert 0.02 < own.card.weight_error < 0.2
    assert torch.equal(logits(own), logits(meant))


@pytest.mark.parametrize("name", FORMATS)
def test_every_matrix_is_read_as_the_values_that_were_meant(plain, tmp_path, name):
    quantised, convert, _ = FORMATS[name]
    folder, dense = published.write(plain, tmp_path / "m", quantised, convert)
    read, meant = Checkpoint(folder), Checkpoint(dense)
    assert read.names() == meant.names()
    for weight in sorted(meant.names()):
        assert torch.equal(read.tensor(weight).float(), meant.tensor(weight).float()), weight


@pytest.mark.parametrize(
    ("quantised", "says"),
    [
        ({"quant_method": "awq", "version": "gemv", "bits": 4}, "AWQ in the layout 'gemv'"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "GPTQ in the layout 'marlin'"),
        ({**GPTQ, "bits": 1}, r"quantised by gptq \(1\) in 1 bit"),
        ({**CT, "format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ({"quant_method": "quip"}, "quantised by quip, which is not read here: GPTQ, AWQ"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp"}, "AutoRound as"),
    ],
)
def test_what_is_not_read_is_named(plain, tmp_path, quantised, says):
    folder, _ = published.write(plain, tmp_path / "m", quantised, lambda name, weight: None)
    with pytest.raises(ModelNotLoadable, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_codes_that_do_not_fit_their_scales_are_refused(plain, tmp_path):
    quantised, convert, _ = FORMATS["gptq"]

    def cut(name: str, weight: torch.Tensor) -> Any:
        tensors, meant = convert(name, weight)
        return {**tensors, "scales": tensors["scales"][:, :-8]}, meant

    folder, _ = published.write(plain, tmp_path / "m", quantised, cut)
    with pytest.raises(ModelNotLoadable, match=r"qweight: codes \(\d+, \d+\) with scales"):
        load(folder)


def test_a_list_of_groups_that_are_not_there_is_refused(plain, tmp_path):
    quantised, convert, _ = FORMATS["gptq"]

    def broken(name: str, weight: torch.Tensor) -> Any:
        tensors, meant = convert(name, weight)
        return {**tensors, "g_idx": tensors["g_idx"] + 1}, meant

    folder, _ = published.write(plain, tmp_path / "m", quantised, broken)
    with pytest.raises(ModelNotLoadable, match="a list of 128 groups for 128 columns"):
        load(folder)
