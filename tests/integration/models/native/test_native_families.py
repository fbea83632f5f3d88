"""Every family that is described: native logits against Transformers' module of the same weights.

A new family needs a line here: its configuration's class and what its switches are set to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.architecture.families import (
    convolutions,
    delta_nets,
    kimi,
    latent_attention,
    mixtures,
    shared_mixtures,
    sparse_attention,
    state_spaces,
    zamba,
)
from penstock.models.architecture.reading import FAMILIES
from penstock.models.backends.native import library, loading
from penstock.models.spec import ModelSpec
from penstock.models.weights import matrices, q4_0
from tests.fixtures.models import TINY_SIZES, write_model

if TYPE_CHECKING:
    from pathlib import Path

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

SIZES: dict[str, Any] = {
    **TINY_SIZES,
    "num_hidden_layers": 4,
}
LOCAL: dict[str, Any] = {
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
GEMMA4 = {"head_dim": 32, "global_head_dim": 64}
FULL = {"layer_types": ["full_attention"] * 4}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 12,
    "long_factor": [float(1 + step) for step in range(12)],
    "original_max_position_embeddings": 64,
}
GROWING = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.6,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 24}),
    "ministral": ("ministral", {**LOCAL, "head_dim": 32}),
    "ministral3": ("ministral3", {"head_dim": 32, "rope_parameters": GROWING}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 64}),
    "seed-oss": ("seed_oss", {"head_dim": 64}),
    "helium": ("helium", {"head_dim": 32}),
    "ernie4-5": ("ernie4_5", {"head_dim": 64, "use_bias": True}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 6.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
        },
    ),
    "granite4": (
        "granitemoehybrid",
        {
            **FULL,
            "num_local_experts": 0,
            "shared_intermediate_size": 192,
            "position_embedding_type": "rope",
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.1,
        },
    ),
    "granite4-nope": (
        "granitemoehybrid",
        {
            **FULL,
            "num_local_experts": 0,
            "shared_intermediate_size": 192,
            "attention_multiplier": 0.1,
        },
    ),
    "smollm3": ("smollm3", {}),
    "arcee": ("arcee", {"head_dim": 32}),
    "cwm": ("cwm", {"sliding_window": 24, "head_dim": 32}),
    "gemma": ("gemma", {"head_dim": 64}),
    "gemma2": ("gemma2", {**LOCAL, "head_dim": 64, "query_pre_attn_scalar": 48}),
    "gemma2-capped": (
        "gemma2",
        {**LOCAL, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0},
    ),
    "gemma3": ("gemma3_text", {**LOCAL, "head_dim": 64}),
    "gemma3-capped": ("gemma3_text", {**LOCAL, "final_logit_softcapping": 2.0}),
    "gemma4": (
        "gemma4_text",
        {
            **LOCAL,
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma4-inputs": (
        "gemma4_text",
        {
            **LOCAL,
            **GEMMA4,
            "hidden_size_per_layer_input": 64,
            "vocab_size_per_layer_input": 512,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
    ),
    "gemma4-unified": ("gemma4_unified_text", {**LOCAL, **GEMMA4}),
    "minicpm3": (
        "minicpm3",
        {
            "q_lora_rank": 64,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "num_key_value_heads": 4,
            "dim_model_base": 32,
        },
    ),
    "phi3": ("phi3", {"sliding_window": 24}),
    "phi4-mini": (
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {**LONG, "partial_rotary_factor": 0.75},
        },
    ),
    "glm": ("glm", {"head_dim": 32}),
    "glm4": ("glm4", {"head_dim": 64}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {**LOCAL}),
    "exaone4": ("exaone4", {**LOCAL}),
    "exaone4-global": ("exaone4", {"sliding_window": None, **FULL}),
    "cohere": ("cohere", {"use_qk_norm": True}),
    "cohere2": ("cohere2", {**LOCAL, "head_dim": 32}),
    "stablelm": ("stablelm", {"use_qkv_bias": True}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2": ("starcoder2", {"sliding_window": 24}),
    "nemotron": ("nemotron", {}),
    "nemotron-gelu": ("nemotron", {"hidden_act": "gelu"}),
}


def test_every_family_has_a_case() -> None:
    apart = {
        kind
        for module in (
            mixtures,
            shared_mixtures,
            convolutions,
            delta_nets,
            kimi,
            latent_attention,
            sparse_attention,
            state_spaces,
            zamba,
        )
        for family in module.FAMILIES
        for kind in family.model_types
    }
    others = {"chatglm"} | apart  # which have tests of their own
    assert set(FAMILIES) - others <= {kind for kind, _ in CASES.values()}


def spec_of(path: Path, form: str) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "native", format=form)


@pytest.fixture(scope="module", params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(request.param, tmp_path_factory.mktemp("families"))


def written(name: str, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A case's checkpoint, whose norms and biases are not neutral."""
    kind, switches = CASES[name]
    torch.manual_seed(7)
    module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SIZES, **switches}))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:  # norms around their neutral value, biases around 0
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            else:
                parameter.copy_(torch.randn(parameter.shape) * 0.08)
        for part, parameter in module.named_parameters():
            if kind.startswith("gemma4") and part.endswith("q_norm.weight"):
                parameter.mul_(0.2)  # its scores have no scale of their own: else they decide all
        for part, buffer in module.named_buffers():
            if part.endswith("layer_scalar"):
                buffer.mul_(0.7)
    return write_model(path / name, module.to(dtype))


def dequantised(path: Path, form: str) -> Any:
    """Transformers' module in fp32 with the weights that the format stands for."""
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    module.set_attn_implementation("eager")
    if module.lm_head.weight is module.model.embed_tokens.weight:
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                matrix = getattr(matrices, form)(layer.weight.detach())
                if matrix.kind == "i4":
                    weight = q4_0.dequantize(matrix.values, matrix.scales)
                else:
                    weight = matrix.values.astype(np.float32) * matrix.scales
                layer.weight.copy_(torch.from_numpy(weight))
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["minicpm3", "gemma4", "gemma4-inputs", "gemma4-unified"])
def test_weights_as_they_are_stored(name: str, tmp_path: Path) -> None:
    """In 16 and 32 bit: nothing is rounded but keys and values, to 16 bit."""
    ids = np.random.default_rng(1).integers(3, 500, 150).tolist()
    blocks = list(range(10))
    for form, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        path = written(name, tmp_path / form, kind)
        module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        module.set_attn_implementation("eager")
        with torch.inference_mode():
            expected = module(torch.tensor([ids])).logits[0]
        model: Any = loading.load(spec_of(path, form), lambda *_: None).model
        model.allocate(24)
        found = model.forward(Batch((SequenceSlice(0, ids, 0, blocks, 0),)))
        assert ((found - expected).norm() / expected.norm()).item() < 3e-3
        first = model.forward(Batch((SequenceSlice(1, ids[:70], 0, blocks, 0),)))
        second = model.forward(Batch((SequenceSlice(1, ids[70:], 70, blocks, 0),)))
        assert torch.equal(torch.cat((first, second)), found)


@pytest.mark.filterwarnings("ignore")
def test_keys_and_values_in_8_bit_take_half_the_memory(folder: Path) -> None:
    """Their error beside 16 bit is small, and chunks give the same bits here too."""
    ids = np.random.default_rng(1).integers(3, 500, 150).tolist()
    found: list[torch.Tensor] = []
    sizes: list[int] = []
    blocks = list(range(10))
    for kv_cache_type in (None, "u8"):
        spec = replace(spec_of(folder, "int8"), kv_cache_type=kv_cache_type)
        model: Any = loading.load(spec, lambda *_: None).model
        model.allocate(24)
        model._cache[:] = 0xFF  # NaN, in scales too: what was never written must not matter
        model._windows[:] = 0xFF
        sizes.append(model.kv_layout.bytes_per_block)
        found.append(model.forward(Batch((SequenceSlice(0, ids, 0, blocks, 0),))))
        first = model.forward(Batch((SequenceSlice(1, ids[:70], 0, blocks, 0),)))
        second = model.forward(Batch((SequenceSlice(1, ids[70:], 70, blocks, 0),)))
        assert torch.equal(torch.cat((first, second)), found[-1])
    assert sizes[1] <= 0.63 * sizes[0]  # heads of 32 elements have a scale each
    assert ((found[1] - found[0]).norm() / found[0].norm()).item() < 0.06
    assert not torch.equal(found[0], found[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["sym_int4", "int8"])
def test_logits_are_those_of_the_same_weights_in_fp32(folder: Path, form: str) -> None:
    ids = np.random.default_rng(1).integers(3, 500, 150).tolist()
    with torch.inference_mode():
        output = dequantised(folder, form)(torch.tensor([ids]), output_hidden_states=True)
    model: Any = loading.load(spec_of(folder, form), lambda *_: None).model
    model.allocate(24)
    blocks = list(range(10))
    logits, hidden = model.forward_hidden(Batch((SequenceSlice(0, ids, 0, blocks, 0),)))

    for found, wanted in ((logits, output.logits[0]), (hidden, output.hidden_states[-1][0])):
        assert ((found - wanted).norm() / wanted.norm()).item() < 0.045  # activations are in INT8
    # Chunks and single tokens give the same bits, in every kind of layer.
    first = model.forward(Batch((SequenceSlice(1, ids[:70], 0, blocks, 0),)))
    second = model.forward(Batch((SequenceSlice(1, ids[70:149], 70, blocks, 0),)))
    third = model.forward(Batch((SequenceSlice(1, ids[149:], 149, blocks, 0),)))
    assert torch.equal(torch.cat((first, second, third)), logits)
