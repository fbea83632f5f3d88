"""Qwen3-Next, Qwen3.5 and later: three layers of a gated delta net to one of gated attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.description import HeadNorms
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import mixtures, parts
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.mixers import PartNorm, Recurrence
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.architecture.description import Architecture, Attention, Rotation
    from penstock.models.architecture.facts import Facts
    from penstock.models.architecture.families.parts import Sizes

_KINDS: Final = ("linear_attention", "full_attention")


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Where the parts of a layer's first products lie."""

    query: Rows
    key: Rows
    value: Rows
    gate: Rows
    weight: Rows
    step: Rows


def _layers(facts: Facts, mixer_of: Callable[[Facts, str], Recurrence]) -> Architecture:
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, partial=0.25)
    layers = parts.hybrid_layers(
        _attends(facts, size.layers),
        attention_of=lambda name: _attention(facts, name, size, turning),
        mixer_of=lambda name: mixer_of(facts, f"{name}.linear_attn"),
        mlp_of=lambda name: parts.gated(f"{name}.mlp", size, facts.activation("hidden_act")),
        norms_of=lambda name: (
            parts.rms(f"{name}.input_layernorm", facts, offset=1.0),
            parts.rms(f"{name}.post_attention_layernorm", facts, offset=1.0),
        ),
    )
    return parts.model(facts, layers, parts.rms("model.norm", facts, offset=1.0))


def _attends(facts: Facts, count: int) -> list[bool]:
    kinds = parts.stated_types(facts, count, _KINDS)
    if kinds is not None:
        return [kind == "full_attention" for kind in kinds]
    interval = facts.size("full_attention_interval", 4)
    return [(index + 1) % interval == 0 for index in range(count)]


def _attention(facts: Facts, name: str, size: Sizes, turning: Rotation) -> Attention:
    """Each head's gates lie behind its queries."""
    own, head = f"{name}.self_attn", size.head
    plain = parts.attention(own, size, turning)
    across = size.heads * head
    both = Rows(f"{own}.q_proj", across, 0, 2 * across, run=head, period=2 * head)
    return replace(
        plain,
        query=both,
        gate=replace(both, first=head),
        head_norms=HeadNorms(
            (f"{own}.q_norm",), (f"{own}.k_norm",), facts.real("rms_norm_eps", 1e-6), offset=1.0
        ),
    )


def _recurrence(facts: Facts, name: str, inputs: _Inputs) -> Recurrence:
    """What is the same in all of them."""
    key_heads, value_heads = _heads(facts)
    key_size, value_size = facts.size("linear_key_head_dim"), facts.size("linear_value_head_dim")
    keys, values = key_heads * key_size, value_heads * value_size
    channels, convolution = 2 * keys + values, f"{name}.conv1d"
    if facts.activation("hidden_act") != "silu":
        raise NotDescribed(f"a delta net with {facts.raw('hidden_act')!r}")
    return Recurrence(
        rule="delta",
        key_heads=key_heads,
        value_heads=value_heads,
        key_size=key_size,
        value_size=value_size,
        width=facts.size("linear_conv_kernel_dim"),
        query=inputs.query,
        key=inputs.key,
        value=inputs.value,
        gate=inputs.gate,
        weight=inputs.weight,
        step=inputs.step,
        output=Rows(f"{name}.out_proj", facts.size("hidden_size")),
        convolution=(
            Rows(convolution, keys, 0, channels),
            Rows(convolution, keys, keys, channels),
            Rows(convolution, values, 2 * keys, channels),
        ),
        rates=f"{name}.A_log",
        step_bias=f"{name}.dt_bias",
        skip=None,
        norm=PartNorm(
            f"{name}.norm", value_size, facts.real("rms_norm_eps", 1e-6), gated_first=False
        ),
    )


def _heads(facts: Facts) -> tuple[int, int]:
    keys, values = facts.size("linear_num_key_heads"), facts.size("linear_num_value_heads")
    if values % keys:
        raise NotDescribed(f"{values} heads of values for {keys} of keys")
    return keys, values


def _apart(facts: Facts, name: str) -> Recurrence:
    """Qwen3.5: four matrices, of which the first has queries, keys and values."""
    key_heads, value_heads = _heads(facts)
    keys = key_heads * facts.size("linear_key_head_dim")
    values = value_heads * facts.size("linear_value_head_dim")
    together, total = f"{name}.in_proj_qkv", 2 * keys + values
    inputs = _Inputs(
        query=Rows(together, keys, 0, total),
        key=Rows(together, keys, keys, total),
        value=Rows(together, values, 2 * keys, total),
        gate=Rows(f"{name}.in_proj_z", values),
        weight=Rows(f"{name}.in_proj_b", value_heads),
        step=Rows(f"{name}.in_proj_a", value_heads),
    )
    return _recurrence(facts, name, inputs)


def _by_head(facts: Facts, name: str) -> Recurrence:
    """Qwen3-Next: two matrices, whose parts take turns by the head of keys."""
    key_heads, value_heads = _heads(facts)
    key = facts.size("linear_key_head_dim")
    each = value_heads // key_heads
    values = each * facts.size("linear_value_head_dim")
    together, two = f"{name}.in_proj_qkvz", f"{name}.in_proj_ba"

    def turns(matrix: str, first: int, run: int, period: int) -> Rows:
        return Rows(matrix, key_heads * run, first, key_heads * period, run, period)

    period = 2 * key + 2 * values
    inputs = _Inputs(
        query=turns(together, 0, key, period),
        key=turns(together, key, key, period),
        value=turns(together, 2 * key, values, period),
        gate=turns(together, 2 * key + values, values, period),
        weight=turns(two, 0, each, 2 * each),
        step=turns(two, each, each, 2 * each),
    )
    return _recurrence(facts, name, inputs)


def _dense(facts: Facts) -> Architecture:
    return _layers(facts, _apart)


def _mixture(facts: Facts) -> Architecture:
    return mixtures.qwen(facts, _layers(facts, _apart))


def _next(facts: Facts) -> Architecture:
    return mixtures.qwen(facts, _layers(facts, _by_head))


_SIZES: Final[dict[str, Any]] = {
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_EXPERTS: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True,
    "intermediate_size": 5632,
}

FAMILIES: Final = (
    Family(
        ("qwen3_5_text",),
        _dense,
        {
            **_SIZES,
            "vocab_size": 248_320,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 32,
            "num_key_value_heads": 4,
        },
    ),
    Family(
        ("qwen3_5_moe_text",),
        _mixture,
        {
            **_SIZES,
            **_EXPERTS,
            "vocab_size": 248_320,
            "num_hidden_layers": 40,
            "num_experts_per_tok": 8,
            "num_experts": 256,
        },
    ),
    Family(
        ("qwen3_next",),
        _next,
        {
            **_SIZES,
            **_EXPERTS,
            "vocab_size": 151_936,
            "num_hidden_layers": 48,
            "num_experts_per_tok": 10,
            "num_experts": 512,
        },
    ),
)
