"""Gemma: norms' weights count from 1, embeddings are scaled; 2 and 3 norm on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import HeadNorms, Layer
from penstock.models.architecture.facts import Facts, NotDescribed
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Rotation
    from penstock.models.architecture.elements import Norm

_LOCAL_THETA: Final = 10_000.0


def _norm(name: str, facts: Facts) -> Norm:
    return parts.rms(name, facts, offset=1.0)


def _gemma(facts: Facts) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size)
    activation = facts.activation("hidden_activation", "hidden_act")
    layers: list[Layer] = []
    for index in range(size.layers):
        name = parts.layer_name(index)
        layers.append(
            Layer(
                attention=parts.attention(f"{name}.self_attn", size, turning),
                mlp=parts.gated(f"{name}.mlp", size, activation),
                attention_in=_norm(f"{name}.input_layernorm", facts),
                mlp_in=_norm(f"{name}.post_attention_layernorm", facts),
            )
        )
    return _around(facts, layers)


def _around(facts: Facts, layers: list[Layer]) -> Architecture:
    if facts.flag("use_bidirectional_attention"):
        raise NotDescribed("attention in both directions")
    return parts.model(
        facts,
        layers,
        _norm("model.norm", facts),
        embedding_scale=facts.size("hidden_size") ** 0.5,
        logit_soft_cap=facts.real("final_logit_softcapping", 0.0),
    )


def _gemma2(facts: Facts) -> Architecture:
    return _both_sides(facts, pattern=2, head_norms=False)


def _gemma3(facts: Facts) -> Architecture:
    pattern = facts.raw("sliding_window_pattern") or facts.raw("_sliding_window_pattern")
    return _both_sides(facts, pattern=pattern if isinstance(pattern, int) else 6, head_norms=True)


def _both_sides(facts: Facts, *, pattern: int, head_norms: bool) -> Architecture:
    """Norms before and after attention and MLP; local and global layers alternate."""
    size = parts.sizes(facts)
    activation = facts.activation("hidden_activation", "hidden_act")
    scale = facts.real("query_pre_attn_scalar") ** -0.5
    soft_cap = facts.real("attn_logit_softcapping", 0.0)
    window = facts.whole("sliding_window", 0)
    epsilon = facts.real("rms_norm_eps", 1e-6)
    layers: list[Layer] = []
    for index, kind in enumerate(parts.layer_types(facts, size.layers, pattern=pattern)):
        name = parts.layer_name(index)
        own = (f"{name}.self_attn.q_norm",), (f"{name}.self_attn.k_norm",)
        attending = parts.attention(
            f"{name}.self_attn",
            size,
            _turning(facts, size.head, kind),
            window=window if kind == parts.SLIDING else 0,
            scale=scale,
            soft_cap=soft_cap,
            head_norms=HeadNorms(*own, epsilon, offset=1.0) if head_norms else None,
        )
        layers.append(
            Layer(
                attention=attending,
                mlp=parts.gated(f"{name}.mlp", size, activation),
                attention_in=_norm(f"{name}.input_layernorm", facts),
                attention_out=_norm(f"{name}.post_attention_layernorm", facts),
                mlp_in=_norm(f"{name}.pre_feedforward_layernorm", facts),
                mlp_out=_norm(f"{name}.post_feedforward_layernorm", facts),
            )
        )
    return _around(facts, layers)


def _turning(facts: Facts, head_size: int, kind: str) -> Rotation:
    """Return a layer's rotation; older files of Gemma 3 state the local layers' base separately."""
    nested = kind in facts.mapping("rope_parameters")
    if kind == parts.SLIDING and not nested and facts.has("rope_local_base_freq"):
        local = {
            "rope_theta": facts.real("rope_local_base_freq", _LOCAL_THETA),
            "max_position_embeddings": facts.size("max_position_embeddings", 4096),
        }
        return rotations.read(Facts(local, {}), head_size)
    return rotations.read(facts, head_size, layer_type=kind)


_GEMMA: Final = {
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_GEMMA2: Final = {
    **_GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3: Final = {
    **{name: value for name, value in _GEMMA2.items() if "softcapping" not in name},
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": _LOCAL_THETA,
}

FAMILIES: Final = (
    Family(("gemma",), _gemma, _GEMMA),
    Family(("gemma2",), _gemma2, _GEMMA2),
    Family(("gemma3_text",), _gemma3, _GEMMA3),
)
