"""Experts, and GPT-2's linear layers, in bigdl-llm's low bit: held so, counted so, computed so."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    JetMoeConfig,
    JetMoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from penstock.engine.model import Batch, SequenceSlice
from penstock.models import loader, quantise
from penstock.models.backends import bigdl, low_bit_experts
from penstock.models.backends.linear_layers import linear_layers, matrix_of
from penstock.models.backends.native import library
from penstock.models.catalogue import footprint
from penstock.models.catalogue.models_file import BIGDL_FORMATS
from penstock.models.catalogue.resolve import resolve
from penstock.models.weights import q4_0
from penstock.settings import Settings
from tests.fixtures.models import randomise, write_model

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("bigdl.llm", reason="bigdl-llm is not installed")

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "num_experts_per_tok": 2,
}
QWEN_SIZES: dict[str, Any] = {"num_experts": 6, "moe_intermediate_size": 64, "head_dim": 32}
MODELS: dict[str, Any] = {
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **QWEN_SIZES)),
    "gpt-oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=4, head_dim=32)),
    "granite": lambda: GraniteMoeForCausalLM(GraniteMoeConfig(**SIZES, num_local_experts=4)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=512, n_embd=128, n_layer=2, n_head=4, n_positions=256)
    ),
}
EXPERTS: dict[str, Any] = {
    "qwen3-moe": lambda: Qwen3MoeExperts(
        Qwen3MoeConfig(**SIZES, num_experts=6, moe_intermediate_size=64)
    ),
    "gpt-oss": lambda: GptOssExperts(GptOssConfig(**SIZES, num_local_experts=6)),
    "nemotron-h": lambda: NemotronHExperts(
        SimpleNamespace(
            n_routed_experts=6, num_local_experts=6, hidden_size=128, moe_intermediate_size=64,
            moe_latent_size=None, mlp_hidden_act="relu2", _experts_implementation="eager",
        )
    ),
}  # fmt: skip
IDS = list(range(40, 70))


def experts_of(kind: str) -> Any:
    torch.manual_seed(1)
    part = EXPERTS[kind]()
    part.config._experts_implementation = "eager"
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return part.eval().requires_grad_(requires_grad=False)


def low_bit(part: Any, form: str) -> Any:
    found = bigdl.Quantiser(bigdl.import_library(), form)
    owner = torch.nn.Module()
    owner.experts = copy.deepcopy(part)
    found.convert(owner, lambda *_: None)
    return owner.experts


@pytest.mark.parametrize("form", BIGDL_FORMATS)
@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_multiply_as_well_as_their_bits_allow(kind: str, form: str) -> None:
    exact = experts_of(kind)
    packed = low_bit(exact, form)
    hidden = torch.randn(20, 128)
    chosen = torch.stack([torch.randperm(6)[:2] for _ in range(20)])
    weights = torch.rand(20, 2)
    wanted, got = exact(hidden, chosen, weights), packed(hidden, chosen, weights)
    error = ((got - wanted).norm() / wanted.norm()).item()
    assert error < {"4": 0.2, "5": 0.1, "8": 0.03}[form[-1]]
    held = sum(weight.nbytes for weight in packed.parameters() if weight.dtype == torch.uint8)
    assert (
        held
        < sum(weight.nbytes for weight in exact.parameters()) / {"4": 7, "5": 5, "8": 3.6}[form[-1]]
    )


@pytest.mark.parametrize("kind", EXPERTS)
def test_blocks_are_those_of_each_expert_alone_and_the_kernels_keep_them(kind: str) -> None:
    exact = experts_of(kind)
    packed = low_bit(exact, "sym_int4")
    for name in low_bit_experts.matrix_names(exact):
        shape = low_bit_experts.matrix_shape(exact, name)
        for weight, blocks in zip(getattr(exact, name), getattr(packed, name), strict=True):
            own = (weight.T if exact.is_transposed else weight).contiguous()
            for one, other in zip(
                q4_0.unpack(blocks.numpy(), *shape), q4_0.quantize(own), strict=True
            ):
                assert np.array_equal(one, other)
    hidden = torch.randn(20, 128)
    chosen = torch.stack([torch.randperm(6)[:2] for _ in range(20)])
    weights = torch.rand(20, 2)
    expected = packed(hidden, chosen, weights)
    low_bit_experts.use_kernels(packed)
    assert (packed.mixture is None) is (kind == "nemotron-h" or library.best_isa() is None)
    got = packed(hidden, chosen, weights)
    assert ((got - expected).norm() / expected.norm()).item() < 0.03  # activations of 8 bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    for name, make in MODELS.items():
        write_model(path / name, randomise(make(), std=0.1))
    return path


def settings_of(folder: Path, name: str, form: str = "sym_int4") -> Settings:
    file = folder / f"{name}-{form}.toml"
    file.write_text(f'[models.x]\npath = "{name}"\nbackend = "bigdl"\nformat = "{form}"\n')
    return Settings(models_file=file, models_dir=folder / "none", threads=1)


def load(settings: Settings) -> Any:
    spec = resolve("x-cpu", settings)
    return spec, loader.load(spec, settings, slots=2, progress=lambda *_: None)


def logits_of(model: Any) -> torch.Tensor:
    rows = list(range(10))
    return model.forward(Batch([SequenceSlice(1, IDS, 0, rows, 0)]))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_as_large_as_reported_and_nearly_what_it_was(folder: Path, name: str) -> None:
    spec, loaded = load(settings_of(folder, name))
    assert loaded.card.format == "sym_int4"
    told = footprint.measure(spec).weights_bytes
    assert abs(loaded.card.weights_bytes - told) < 0.01 * told
    assert loaded.card.weights_bytes < 1.7 * loaded.card.parameters
    with torch.inference_mode():
        expected = dequantised(randomise(MODELS[name](), std=0.1))(torch.tensor([IDS])).logits[0]
    similar = torch.cosine_similarity(logits_of(loaded.model), expected, dim=-1)
    assert similar.median() > 0.99  # activations of 8 bits turn a choice of experts here or there


def dequantised(model: Any) -> Any:
    """The module with the weights that its blocks stand for."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for _, _, layer in linear_layers(model):
            round_trip(matrix_of(layer))
        for _, part in low_bit_experts.expert_modules(model):
            for name in low_bit_experts.matrix_names(part):
                for weight in getattr(part, name):
                    round_trip(weight.T if part.is_transposed else weight)
    return model


def round_trip(weight: torch.Tensor) -> None:
    weight.copy_(torch.as_tensor(q4_0.dequantize(*q4_0.quantize(weight.contiguous()))))


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss", "gpt2"])
def test_a_folder_in_low_bit_is_the_same_model(folder: Path, name: str) -> None:
    settings = settings_of(folder, name)
    spec, loaded = load(settings)
    target = folder / f"{name}-sym_int4"
    report = quantise.quantise(spec, target, "sym_int4", "", lambda *_: None)
    tied = 512 * 128 if name == "gpt2" else 0  # such a folder holds a head of its own
    assert report.parameters == loaded.card.parameters
    settings.models_file.write_text(f'[models.x]\npath = "{target.name}"\nbackend = "bigdl"\n')
    found = load(settings)[1]
    assert (found.card.format, found.card.parameters) == (
        "sym_int4",
        loaded.card.parameters + tied,
    )
    assert torch.equal(logits_of(found.model), logits_of(loaded.model))


def test_what_stays_in_fp32_is_in_the_format(tmp_path: Path) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != "num_attention_heads"}
    config = JetMoeConfig(**sizes, num_local_experts=4, kv_channels=32)
    write_model(tmp_path / "jetmoe", JetMoeForCausalLM(config))
    spec, loaded = load(settings_of(tmp_path, "jetmoe"))
    assert loaded.card.format == "sym_int4+fp32"
    told = footprint.measure(spec).weights_bytes
    assert abs(loaded.card.weights_bytes - told) < 0.01 * told
