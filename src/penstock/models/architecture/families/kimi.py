"""Kimi Linear: gated delta nets whose decay each element of a key has for itself, and latent attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.models.architecture.description import Dense
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, latent_parts, parts, shared_mixtures
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.mixers import PartNorm, Recurrence
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Mlp
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_KINDS: Final = ("linear_attention", "full_attention")
_INTERVAL: Final = 4
_SPARSE: Final = "sparse"
_NAMES: Final = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
"""Published names, and those that other families have."""
_NESTED: Final = {
    "head_dim": "linear_head_dim",
    "num_heads": "linear_num_heads",
    "short_conv_kernel_size": "linear_conv_kernel_dim",
}
"""The same of what a published configuration has below `linear_attn_config`."""


def _kimi(stated: Facts) -> Architecture:
    facts = _renamed(stated)
    size = parts.sizes(facts)
    scale = (facts.size("qk_nope_head_dim") + facts.size("qk_rope_head_dim")) ** -0.5
    attends = _attends(facts, size.layers)
    sparse = iter(_sparse(facts, size.layers))
    layers = parts.hybrid_layers(
        attends,
        attention_of=lambda name: latent_parts.attention(
            facts, f"{name}.self_attn", size, None, scale
        ),
        mixer_of=lambda name: _recurrence(facts, f"{name}.self_attn", size.hidden),
        mlp_of=lambda name: _mlp(facts, name, size, routed=next(sparse)),
        norms_of=lambda name: (
            parts.rms(f"{name}.input_layernorm", facts),
            parts.rms(f"{name}.post_attention_layernorm", facts),
        ),
    )
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _mlp(facts: Facts, name: str, size: Sizes, *, routed: bool) -> Mlp:
    own = f"{name}.block_sparse_moe"
    routing = shared_mixtures.grouped(facts, f"{own}.gate") if routed else None
    plain = latent_parts.mlp(facts, name, size, routing)
    if isinstance(plain, Dense):
        return plain
    return replace(plain, matrices=experts.matrices(f"{own}.experts", "w1", "w3", "w2"))


def _renamed(stated: Facts) -> Facts:
    """Return the same values by the names of other families."""
    own = stated.mapping("linear_attn_config")
    named = {new: own[old] for old, new in _NESTED.items() if old in own}
    named |= {new: stated.raw(old) for old, new in _NAMES.items() if stated.has(old)}
    # Of the configuration, the size of a head is that of the rotated part.
    named["head_dim"] = stated.raw("qk_rope_head_dim")
    return stated.with_values(named)


def _attends(facts: Facts, count: int) -> list[bool]:
    """Return whether each layer has attention; published lists count layers from 1."""
    kinds = parts.stated_types(facts, count, _KINDS)
    if kinds is not None:
        return [kind == "full_attention" for kind in kinds]
    own = facts.mapping("linear_attn_config")
    full, linear = own.get("full_attn_layers"), own.get("kda_layers")
    if isinstance(full, list) and isinstance(linear, list):
        attending = {int(index) for index in cast("list[Any]", full)}
        mixing = {int(index) for index in cast("list[Any]", linear)}
        if attending | mixing != set(range(1, count + 1)) or attending & mixing:
            raise NotDescribed("full_attn_layers and kda_layers are not all layers, each once")
        return [index + 1 in attending for index in range(count)]
    return [index > 0 and index % _INTERVAL == 0 for index in range(count)]


def _sparse(facts: Facts, count: int) -> list[bool]:
    """Return whether each layer has experts."""
    kinds = facts.listed("mlp_layer_types", count)
    if kinds is not None:
        return [kind == _SPARSE for kind in kinds]
    first = facts.whole("first_k_dense_replace", 1)
    return [index >= first for index in range(count)]


def _recurrence(facts: Facts, name: str, hidden: int) -> Recurrence:
    heads, size = facts.size("linear_num_heads"), facts.size("linear_head_dim")
    values = heads * size
    if facts.activation("hidden_act") != "silu":
        raise NotDescribed(f"a delta net with {facts.raw('hidden_act')!r}")
    return Recurrence(
        rule="keyed_delta",
        key_heads=heads,
        value_heads=heads,
        key_size=size,
        value_size=size,
        width=facts.size("linear_conv_kernel_dim"),
        query=Rows(f"{name}.q_proj", values),
        key=Rows(f"{name}.k_proj", values),
        value=Rows(f"{name}.v_proj", values),
        gate=Rows(f"{name}.g_b_proj", values),
        weight=Rows(f"{name}.b_proj", heads),
        step=Rows(f"{name}.f_b_proj", values),
        output=Rows(f"{name}.o_proj", hidden),
        convolution=(
            Rows(f"{name}.q_conv1d", values),
            Rows(f"{name}.k_conv1d", values),
            Rows(f"{name}.v_conv1d", values),
        ),
        rates=f"{name}.A_log",
        step_bias=f"{name}.dt_bias",
        skip=None,
        norm=PartNorm(f"{name}.o_norm", size, facts.real("rms_norm_eps", 1e-5), gated_first=False),
        step_down=Rows(f"{name}.f_a_proj", size),
        gate_down=Rows(f"{name}.g_a_proj", size),
        gate_is_sigmoid=True,
    )


_KIMI: Final[dict[str, Any]] = {
    "vocab_size": 163_840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.446,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 1_048_576,
    "rms_norm_eps": 1e-5,
    "num_local_experts": 256,
    "linear_head_dim": 128,
    "linear_num_heads": 32,
    "linear_conv_kernel_dim": 4,
}

FAMILIES: Final = (Family(("kimi_linear",), _kimi, _KIMI),)
