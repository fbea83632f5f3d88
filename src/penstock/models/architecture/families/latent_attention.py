"""Latent attention: DeepSeek V2 and V3, Kimi K2, GLM-4.7-Flash, Mistral 4; dense: MiniCPM 3."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import Routing
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, latent_parts, parts, shared_mixtures
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture
    from penstock.models.architecture.facts import Facts


def _model(facts: Facts, *, interleaved: bool, dense: list[bool]) -> Architecture:
    """Llama with latent attention, and experts in the layers that are not `dense`."""
    size = parts.sizes(facts)
    routing = _ROUTINGS.get(str(facts.raw("model_type")), shared_mixtures.grouped)
    layers = [
        parts.prenormed(
            name,
            facts,
            latent_parts.rotated(facts, f"{name}.self_attn", size, interleaved=interleaved),
            latent_parts.mlp(
                facts, name, size, None if dense[index] else routing(facts, f"{name}.mlp.gate")
            ),
        )
        for index, name in enumerate(map(parts.layer_name, range(size.layers)))
    ]
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _softmax_routing(facts: Facts, router: str) -> Routing:
    """DeepSeek V2's: softmax, of the best groups if it is configured so, never normalised."""
    method = str(facts.raw("topk_method"))
    if method not in {"greedy", "group_limited_greedy"}:
        raise NotDescribed(f"topk_method {method!r} is unknown")
    grouped = method == "group_limited_greedy"
    return Routing(
        router,
        experts.count(facts, "n_routed_experts", "num_experts"),
        facts.size("num_experts_per_tok"),
        normalise=False,
        scale=facts.real("routed_scaling_factor", 1.0),
        groups=facts.size("n_group") if grouped else 1,
        chosen_groups=facts.size("topk_group") if grouped else 1,
    )


def _normalised_routing(facts: Facts, router: str) -> Routing:
    """Mistral 4's: DeepSeek V3's with a softmax, and nothing added for the choice."""
    plain = shared_mixtures.grouped(facts, router)
    return replace(plain, scoring="softmax", correction=None)


_ROUTINGS: Final = {"deepseek_v2": _softmax_routing, "mistral4": _normalised_routing}
"""By model type; all others have DeepSeek V3's."""


def _deepseek(facts: Facts) -> Architecture:
    count, first = facts.size("num_hidden_layers"), facts.whole("first_k_dense_replace", 0)
    interleaved = facts.flag("rope_interleave", default=True)
    return _model(facts, interleaved=interleaved, dense=[index < first for index in range(count)])


def _glm(facts: Facts) -> Architecture:
    """GLM-4.7-Flash: DeepSeek V3's layers, each dense or sparse by the configuration."""
    count = facts.size("num_hidden_layers")
    stated = facts.listed("mlp_layer_types", count)
    kinds = ["dense", *["sparse"] * (count - 1)] if stated is None else stated
    dense = [kind == "dense" for kind in kinds]
    return _model(facts, interleaved=facts.flag("rope_interleave", default=True), dense=dense)


def _mistral(facts: Facts) -> Architecture:
    """Mistral 4: DeepSeek's layers, whose rotated part is stated as a share, and growing queries."""
    plain = _deepseek(facts)
    latent = plain.layers[0].attention.latent
    assert latent is not None  # noqa: S101 - all layers of this family have one
    interleaved = facts.flag("rope_interleave", default=True)
    across = latent.plain + latent.turned
    turning = rotations.read(facts, across, interleaved=interleaved, partial=latent.turned / across)
    if turning.size != latent.turned:
        raise NotDescribed(f"{turning.size} of {latent.turned} elements are rotated")
    growth = rotations.growth(facts)
    layers = [
        replace(layer, attention=replace(layer.attention, rotation=turning, growth=growth))
        for layer in plain.layers
    ]
    return replace(plain, layers=tuple(layers))


def _minicpm(facts: Facts) -> Architecture:
    """MiniCPM 3: dense layers, whose results count less the more there are; scaled embeddings."""
    count = facts.size("num_hidden_layers")
    plain = _model(facts, interleaved=False, dense=[True] * count)
    scale = facts.real("scale_depth", 1.4) / math.sqrt(count)
    return replace(
        plain,
        layers=tuple(replace(layer, residual_scale=scale) for layer in plain.layers),
        embedding_scale=facts.real("scale_emb", 1.0),
        logit_scale=facts.real("dim_model_base", 256) / facts.size("hidden_size"),
    )


_DEEPSEEK: Final[dict[str, Any]] = {
    **latent_parts.DEEPSEEK,
    "first_k_dense_replace": 3,
    "max_position_embeddings": 4096,
}

FAMILIES: Final = (
    Family(("deepseek_v3",), _deepseek, _DEEPSEEK),
    Family(
        ("deepseek_v2",),
        _deepseek,
        {
            **_DEEPSEEK,
            "vocab_size": 102_400,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "moe_intermediate_size": 1407,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "n_shared_experts": 2,
            "n_routed_experts": 64,
            "routed_scaling_factor": 1.0,
            "topk_method": "greedy",
            "first_k_dense_replace": 0,
            "max_position_embeddings": 2048,
        },
    ),
    Family(
        ("glm4_moe_lite",),
        _glm,
        {
            **_DEEPSEEK,
            "vocab_size": 154_880,
            "hidden_size": 2048,
            "intermediate_size": 10_240,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 47,
            "num_attention_heads": 20,
            "n_routed_experts": 64,
            "routed_scaling_factor": 1.8,
            "q_lora_rank": 768,
            "v_head_dim": 256,
            "qk_nope_head_dim": 192,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 202_752,
            "rms_norm_eps": 1e-5,
        },
    ),
    Family(
        ("mistral4",),
        _mistral,
        {
            **_DEEPSEEK,
            "vocab_size": 131_072,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "n_routed_experts": 128,
            "routed_scaling_factor": 1.0,
            "kv_lora_rank": 256,
            "q_lora_rank": 1024,
            "qk_nope_head_dim": 64,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 4,
            "first_k_dense_replace": 0,
            "max_position_embeddings": 1_048_576,
            "rope_parameters": {
                "type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 128.0,
                "original_max_position_embeddings": 8192,
                "max_position_embeddings": 1_048_576,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale_all_dim": 1.0,
                "mscale": 1.0,
                "llama_4_scaling_beta": 0.1,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    Family(
        ("minicpm3",),
        _minicpm,
        {
            "vocab_size": 73_448,
            "hidden_size": 2560,
            "intermediate_size": 6400,
            "num_hidden_layers": 62,
            "num_attention_heads": 40,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-5,
            "kv_lora_rank": 256,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "v_head_dim": 64,
            "scale_emb": 12.0,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "tie_word_embeddings": True,
        },
    ),
)
