"""Mamba 2 between layers of attention: Bamba, Granite 4, Nemotron-H; beside attention: Falcon-H1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.models.architecture.description import NO_ATTENTION, NO_MLP, Experts, Layer
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import experts, parts, shared_mixtures
from penstock.models.architecture.families import mamba as mambas
from penstock.models.architecture.families.mamba import Mamba
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Dense, Mlp
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_TYPES: Final = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
}
_PATTERN: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _bamba(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, partial=0.5)
    mamba = mambas.sizes(facts, facts.size("mamba_expand", 2) * size.hidden)
    attending = {int(index) for index in facts.raw("attn_layer_indices") or ()}
    activation = facts.activation("hidden_act")
    layers = parts.hybrid_layers(
        [index in attending for index in range(size.layers)],
        attention_of=lambda name: parts.attention(f"{name}.self_attn", size, turning),
        mixer_of=lambda name: mambas.mixer(f"{name}.mamba", mamba, size.hidden),
        mlp_of=lambda name: parts.gated(f"{name}.feed_forward", size, activation),
        norms_of=lambda name: _norms(name, facts),
    )
    return parts.model(facts, layers, parts.rms("model.final_layernorm", facts))


def _norms(name: str, facts: Facts) -> tuple[Norm, Norm]:
    """The norms before attention and before the MLP, as Bamba and Falcon-H1 name them."""
    return (
        parts.rms(f"{name}.input_layernorm", facts),
        parts.rms(f"{name}.pre_ff_layernorm", facts),
    )


def _granite(facts: Facts) -> Architecture:
    """Granite 4: a shared MLP, and in some models experts beside it."""
    size = parts.sizes(facts)
    turned = facts.raw("position_embedding_type") == "rope"
    turning = parts.rotation(facts, size) if turned else None
    scale = facts.real("attention_multiplier", 1.0)
    routed = facts.whole("num_local_experts", 0)
    layers: list[Layer] = []
    for index, kind in enumerate(_granite_kinds(facts, size.layers)):
        name = parts.layer_name(index)
        attending = parts.attention(f"{name}.self_attn", size, turning, scale=scale)
        mlp_of = shared_mixtures.granite_experts if routed else shared_mixtures.granite_shared
        plain = parts.prenormed(name, facts, attending, mlp_of(facts, name))
        if kind == "mamba":
            mamba = mambas.sizes(facts, facts.size("mamba_expand", 2) * size.hidden)
            mixer = mambas.mixer(f"{name}.mamba", mamba, size.hidden)
            plain = replace(plain, attention=NO_ATTENTION, mixer=mixer)
        layers.append(plain)
    return parts.model(
        facts,
        layers,
        parts.rms("model.norm", facts),
        embedding_scale=facts.real("embedding_multiplier", 1.0),
        logit_scale=1.0 / facts.real("logits_scaling", 1.0),
    )


def _granite_kinds(facts: Facts, count: int) -> list[str]:
    stated = parts.stated_types(facts, count, _TYPES)
    return ["mamba"] * count if stated is None else [_TYPES[kind] for kind in stated]


def _nemotron(facts: Facts) -> Architecture:
    """Nemotron-H: each layer is one of Mamba, attention and an MLP without a gate."""
    kinds = _nemotron_kinds(facts)
    size = replace(parts.sizes(facts), layers=len(kinds))
    heads = facts.size("mamba_num_heads", 128)
    mamba = Mamba(
        groups=facts.size("n_groups", 8),
        heads=heads,
        state=facts.size("ssm_state_size", 128),
        head=facts.size("mamba_head_dim", 64),
        width=facts.size("conv_kernel", 4),
        epsilon=facts.real("layer_norm_epsilon", 1e-5),
        steps=(facts.real("time_step_min", 0.001), float("inf")),
    )
    if heads % mamba.groups or facts.raw("mamba_hidden_act") not in {None, "silu"}:
        raise NotDescribed(f"Mamba of {heads} heads in {mamba.groups} groups")
    layers: list[Layer] = []
    for index, kind in enumerate(kinds):
        name = f"model.layers.{index}"
        norm = Norm(f"{name}.norm", facts.real("layer_norm_epsilon", 1e-5))
        own = f"{name}.mixer"
        ends = kind in {"mlp", "moe"}
        layers.append(
            Layer(
                attention=parts.attention(own, size, None) if kind == "attention" else NO_ATTENTION,
                mixer=mambas.mixer(own, mamba, size.hidden) if kind == "mamba" else None,
                mlp=_nemotron_mlp(facts, own, size, routed=kind == "moe") if ends else NO_MLP,
                attention_in=None if ends else norm,
                mlp_in=norm if ends else None,
            )
        )
    final = Norm("model.norm_f", facts.real("layer_norm_epsilon", 1e-5))
    return replace(parts.model(facts, layers, final), embeddings="model.embeddings")


def _nemotron_mlp(facts: Facts, own: str, size: Sizes, *, routed: bool) -> Mlp:
    """Neither an MLP nor experts have gates."""
    activation = facts.activation("mlp_hidden_act")

    def plain(name: str, inner: int) -> Dense:
        sized = replace(size, inner=inner)
        return parts.plain(name, sized, activation, up="up_proj", down="down_proj")

    if not routed:
        return plain(own, size.inner)
    if facts.has("moe_latent_size"):
        raise NotDescribed("experts that compute in a space of their own (moe_latent_size)")
    shared = facts.size("moe_shared_expert_intermediate_size")
    matrices = experts.matrices(f"{own}.experts")
    return Experts(
        size=facts.size("moe_intermediate_size"),
        activation=activation,
        routing=shared_mixtures.grouped(facts, f"{own}.gate"),
        matrices=replace(matrices, together=f"{own}.experts.up_proj", gated=False),
        shared=plain(f"{own}.shared_experts", shared),
    )


def _nemotron_kinds(facts: Facts) -> list[str]:
    stated = facts.raw("layers_block_type") or facts.raw("layer_types")
    if isinstance(stated, list):
        kinds = [_TYPES.get(str(kind), str(kind)) for kind in cast("list[Any]", stated)]
    else:
        kinds = [_PATTERN.get(sign, sign) for sign in str(facts.raw("hybrid_override_pattern"))]
    other = sorted(set(kinds) - {"mamba", "attention", "mlp", "moe"})
    if other:
        raise NotDescribed(f"a layer of type {other[0]!r}")
    return kinds


def _falcon(facts: Facts) -> Architecture:
    """Falcon-H1: Mamba and attention side by side in each layer, and many multipliers."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size)
    into = facts.real("attention_in_multiplier", 1.0)
    if into != 1 and facts.flag("attention_bias"):
        raise NotDescribed("attention_in_multiplier beside biases")
    scale = size.head**-0.5 * into * into * facts.real("key_multiplier", 1.0)
    mamba = _falcon_mamba(facts, size.hidden)
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        plain = parts.attention(f"{name}.self_attn", size, turning, scale=scale)
        result = into * facts.real("attention_out_multiplier", 1.0)
        first, second = _norms(name, facts)
        layers.append(
            Layer(
                attention=replace(plain, result_scale=result),
                mixer=mambas.mixer(f"{name}.mamba", mamba, size.hidden),
                mlp=_falcon_mlp(facts, parts.gated(f"{name}.feed_forward", size, "silu")),
                attention_in=first,
                mlp_in=second,
            )
        )
    return parts.model(
        facts,
        layers,
        parts.rms("model.final_layernorm", facts),
        embedding_scale=facts.real("embedding_multiplier", 1.0),
        logit_scale=facts.real("lm_head_multiplier", 1.0),
    )


def _falcon_mamba(facts: Facts, hidden: int) -> Mamba:
    stated = facts.raw("mamba_d_ssm")
    values = facts.size("mamba_expand", 2) * hidden if stated is None else facts.size("mamba_d_ssm")
    into = facts.real("ssm_in_multiplier", 1.0)
    if into != 1 and facts.flag("mamba_proj_bias"):
        raise NotDescribed("ssm_in_multiplier beside biases")
    each = [float(scale) for scale in facts.listed("ssm_multipliers", 5) or [1.0] * 5]
    gate, x, b, c, step = (scale * into for scale in each)
    return replace(
        mambas.sizes(facts, values),
        gated_first=not facts.flag("mamba_norm_before_gate", default=True),
        normed=facts.flag("mamba_rms_norm"),
        scales=(gate, x, b, c, step),
        result_scale=facts.real("ssm_out_multiplier", 1.0),
    )


def _falcon_mlp(facts: Facts, mlp: Dense) -> Dense:
    gate, down = (float(one) for one in facts.listed("mlp_multipliers", 2) or [1.0, 1.0])
    return replace(mlp, gate_scale=gate, result_scale=down)


_BAMBA: Final[dict[str, Any]] = {
    "vocab_size": 128_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}

FAMILIES: Final = (
    Family(("bamba",), _bamba, {**_BAMBA, "max_position_embeddings": 262_144}),
    Family(
        ("falcon_h1",),
        _falcon,
        {**_BAMBA, "max_position_embeddings": 8192, "mamba_d_ssm": 1024},
    ),
    Family(
        ("granitemoehybrid",),
        _granite,
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024,
        },
    ),
    Family(
        ("nemotron_h",),
        _nemotron,
        {
            "vocab_size": 131_072,
            "hidden_size": 4096,
            "intermediate_size": 21_504,
            "num_hidden_layers": 52,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "mlp_hidden_act": "relu2",
            "norm_topk_prob": True,
        },
    ),
)
