"""Phi-3 and 4, GLM and GLM-4: projections that are one matrix in the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import Layer
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture
    from penstock.models.architecture.facts import Facts


def _phi3(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size)
    window = facts.whole("sliding_window", 0)
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        attending = parts.attention(
            f"{name}.self_attn", size, turning, window=window, fused="qkv_proj"
        )
        layers.append(
            parts.prenormed(name, facts, attending, parts.stated_fused(f"{name}.mlp", facts))
        )
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _glm(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, interleaved=True, partial=0.5)
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        attending = parts.attention(f"{name}.self_attn", size, turning)
        layers.append(
            parts.prenormed(name, facts, attending, parts.stated_fused(f"{name}.mlp", facts))
        )
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _glm4(facts: Facts) -> Architecture:
    """GLM-4-0414 also norms the outputs of attention and MLP."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, interleaved=True, partial=0.5)
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        layers.append(
            Layer(
                attention=parts.attention(f"{name}.self_attn", size, turning),
                mlp=parts.stated_fused(f"{name}.mlp", facts),
                attention_in=parts.rms(f"{name}.input_layernorm", facts),
                attention_out=parts.rms(f"{name}.post_self_attn_layernorm", facts),
                mlp_in=parts.rms(f"{name}.post_attention_layernorm", facts),
                mlp_out=parts.rms(f"{name}.post_mlp_layernorm", facts),
            )
        )
    return parts.model(facts, layers, parts.rms("model.norm", facts))


_PHI3: Final = {
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
_GLM: Final = {
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 0.00000015625,
}

FAMILIES: Final = (
    Family(("phi3",), _phi3, _PHI3),
    Family(("glm",), _glm, _GLM),
    Family(("glm4",), _glm4, _GLM),
)
