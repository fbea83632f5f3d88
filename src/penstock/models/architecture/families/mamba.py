"""Mamba 2's mixer, for the families that have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.mixers import PartNorm, Recurrence
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.facts import Facts


@dataclass(frozen=True, slots=True)
class Mamba:
    """Sizes of a Mamba layer, and the factors of its parts."""

    groups: int
    heads: int
    state: int
    head: int
    width: int
    epsilon: float
    gated_first: bool = True
    normed: bool = True
    steps: tuple[float, float] = (0.0, float("inf"))
    scales: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Of gates, x, B, C and steps, as the first product has them."""
    result_scale: float = 1.0


def mixer(name: str, mamba: Mamba, hidden: int) -> Recurrence:
    """Return the layer `name`: queries are C, keys B and values x.

    In the first product, gates stand before them and steps behind.
    """
    values, keys = mamba.heads * mamba.head, mamba.groups * mamba.state
    channels = values + 2 * keys
    total = values + channels + mamba.heads

    def part(matrix: str, first: int, whole: int) -> tuple[Rows, Rows, Rows]:
        return (
            Rows(matrix, keys, first + values + keys, whole),
            Rows(matrix, keys, first + values, whole),
            Rows(matrix, values, first, whole),
        )

    query, key, value = part(f"{name}.in_proj", values, total)
    gate_scale, x_scale, b_scale, c_scale, step_scale = mamba.scales
    return Recurrence(
        rule="state_space",
        key_heads=mamba.groups,
        value_heads=mamba.heads,
        key_size=mamba.state,
        value_size=mamba.head,
        width=mamba.width,
        query=query,
        key=key,
        value=value,
        gate=Rows(f"{name}.in_proj", values, 0, total),
        weight=None,
        step=Rows(f"{name}.in_proj", mamba.heads, values + channels, total),
        output=Rows(f"{name}.out_proj", hidden),
        convolution=part(f"{name}.conv1d", 0, channels),
        rates=f"{name}.A_log",
        step_bias=f"{name}.dt_bias",
        skip=f"{name}.D",
        norm=PartNorm(f"{name}.norm", values // mamba.groups, mamba.epsilon, mamba.gated_first)
        if mamba.normed
        else None,
        least_step=mamba.steps[0],
        most_step=mamba.steps[1],
        scales=(c_scale, b_scale, x_scale),
        gate_scale=gate_scale,
        step_scale=step_scale,
        result_scale=mamba.result_scale,
    )


def sizes(facts: Facts, values: int) -> Mamba:
    """Return what Bamba, Granite and Falcon-H1 state alike; `values` are those of all heads.

    :raises NotDescribed: the sizes are inconsistent, or the activation is not SiLU.
    """
    heads, groups = facts.size("mamba_n_heads", 128), facts.size("mamba_n_groups", 1)
    stated = facts.raw("mamba_d_head")
    head = values // heads if stated in {None, "auto"} else facts.size("mamba_d_head")
    if head * heads != values or heads % groups:
        raise NotDescribed(f"{heads} heads of {head} in {groups} groups for {values} values")
    if facts.activation("hidden_act") != "silu":
        raise NotDescribed(f"Mamba with {facts.raw('hidden_act')!r}")
    return Mamba(
        groups=groups,
        heads=heads,
        state=facts.size("mamba_d_state", 256),
        head=head,
        width=facts.size("mamba_d_conv", 4),
        epsilon=facts.real("rms_norm_eps", 1e-5),
        steps=_limits(facts),
    )


def _limits(facts: Facts) -> tuple[float, float]:
    stated = facts.listed("time_step_limit", 2) or [0.0, float("inf")]
    least, most = (_number(limit) for limit in stated)
    return least, most


def _number(stated: Any) -> float:
    """Transformers writes infinity as an object."""
    if isinstance(stated, dict):
        return float(str(cast("dict[str, Any]", stated).get("__float__")))
    return float(stated)
