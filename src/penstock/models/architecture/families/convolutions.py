"""LFM2: short convolutions in most layers, attention in some; its larger form has experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.description import Dense, Experts, HeadNorms, Routing
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.families import experts, parts
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.mixers import ShortConvolution
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Rotation
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_KINDS: Final = ("conv", "full_attention")
_ADDED: Final = 1e-6
"""What is added to the sum of chosen scores before they are divided by it."""


def _layers(facts: Facts, inner: int) -> Architecture:
    size = replace(parts.sizes(facts), inner=inner)
    turning = parts.rotation(facts, size)
    layers = parts.hybrid_layers(
        _attends(facts, size.layers),
        attention_of=lambda name: _attention(facts, name, size, turning),
        mixer_of=lambda name: _convolution(facts, f"{name}.conv", size.hidden),
        mlp_of=lambda name: _mlp(f"{name}.feed_forward", size),
        norms_of=lambda name: (
            _norm(f"{name}.operator_norm", facts),
            _norm(f"{name}.ffn_norm", facts),
        ),
    )
    return parts.model(facts, layers, _norm("model.embedding_norm", facts))


def _attends(facts: Facts, count: int) -> list[bool]:
    kinds = parts.stated_types(facts, count, _KINDS)
    if kinds is not None:
        return [kind == "full_attention" for kind in kinds]
    full = facts.raw("full_attn_idxs")
    indices = range(count) if full is None else {int(index) for index in full}
    return [index in indices for index in range(count)]


def _norm(name: str, facts: Facts) -> Norm:
    return Norm(name, facts.real("norm_eps", 1e-5))


def _attention(facts: Facts, name: str, size: Sizes, turning: Rotation) -> Attention:
    own = f"{name}.self_attn"
    plain = parts.attention(own, size, turning, output="out_proj")
    names = ((f"{own}.q_layernorm",), (f"{own}.k_layernorm",))
    return replace(plain, head_norms=HeadNorms(*names, facts.real("norm_eps", 1e-5)))


def _convolution(facts: Facts, name: str, hidden: int) -> ShortConvolution:
    def part(number: int) -> Rows:
        return Rows(f"{name}.in_proj", hidden, number * hidden, 3 * hidden)

    return ShortConvolution(
        size=hidden,
        width=facts.size("conv_L_cache", 3),
        value=part(2),
        before=part(0),
        after=part(1),
        output=Rows(f"{name}.out_proj", hidden),
        convolution=Rows(f"{name}.conv", hidden),
    )


def _mlp(name: str, size: Sizes) -> Dense:
    gate, up = Rows(f"{name}.w1", size.inner), Rows(f"{name}.w3", size.inner)
    return Dense(size.inner, "silu", gate, up, Rows(f"{name}.w2", size.hidden))


def _lfm(facts: Facts) -> Architecture:
    inner = facts.size("block_ff_dim" if facts.has("block_ff_dim") else "intermediate_size")
    if facts.flag("block_auto_adjust_ff_dim", default=True):
        inner = int(facts.real("block_ffn_dim_multiplier", 1.0) * int(2 * inner / 3))
        whole = facts.size("block_multiple_of", 256)
        inner = -(-inner // whole) * whole
    return _layers(facts, inner)


def _lfm_mixture(facts: Facts) -> Architecture:
    first = facts.whole("num_dense_layers", 2)
    corrected = facts.flag("use_expert_bias", default=True)

    def mlp_of(index: int, name: str) -> Experts | None:
        if index < first:
            return None
        own = f"{name}.feed_forward"
        return Experts(
            size=facts.size("moe_intermediate_size"),
            activation="silu",
            routing=Routing(
                f"{own}.gate",
                facts.size("num_experts"),
                facts.size("num_experts_per_tok"),
                scoring="sigmoid",
                correction=f"{own}.expert_bias" if corrected else None,
                normalise=facts.flag("norm_topk_prob", default=True),
                added_sum=_ADDED,
                scale=facts.real("routed_scaling_factor", 1.0),
            ),
            matrices=experts.matrices(f"{own}.experts", "w1", "w3", "w2"),
        )

    return experts.with_mlps(_layers(facts, facts.size("intermediate_size")), mlp_of)


_SIZES: Final[dict[str, Any]] = {
    "vocab_size": 65_536,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
}

FAMILIES: Final = (
    Family(("lfm2",), _lfm, {**_SIZES, "hidden_size": 2560, "intermediate_size": 12_288}),
    Family(
        ("lfm2_moe",),
        _lfm_mixture,
        {
            **_SIZES,
            "hidden_size": 2048,
            "intermediate_size": 7168,
            "moe_intermediate_size": 1792,
            "num_experts_per_tok": 4,
            "num_experts": 32,
        },
    ),
)
