"""What a layer has that sees earlier tokens by a state of fixed size, in place of their keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from penstock.models.architecture.rows import Rows


@dataclass(frozen=True, slots=True)
class PartNorm:
    """An RMS norm of each `size` values of a state's results; `gated_first`: after their gate."""

    name: str
    size: int
    epsilon: float
    gated_first: bool


@dataclass(frozen=True, slots=True)
class Recurrence:
    """States by head that decay with each token, to which it adds its value by its key.

    Queries, keys and values go through a causal convolution of `width` tokens, by channel, and
    silu; its tensor is (channels, 1, width), with the parts where `convolution` has them. By the
    `delta` rule, of a gated delta net, what the key finds already is taken from the value, which
    counts the sigmoid of `weight`; queries and keys are normed to length 1. By the `keyed_delta` rule
    each element of a key has a decay of its own. A `state_space` is
    Mamba 2's, whose queries, keys and values are C, B and x: a value counts its `step`, between
    `least_step` and `most_step`, and comes back times `skip`. Results go through silu of `gate`, or
    its sigmoid if `gate_is_sigmoid`. With `step_down`, `step` is a product of what that gives; with
    `gate_down`, `gate` likewise. `rates`, `step_bias` and `skip` name tensors with a number a value
    head; the first is a logarithm. A `keyed_delta`'s `step` and `step_bias` have one an element.
    What the first products give is multiplied by `scales` (query, key, value), `gate_scale` and
    `step_scale`, the last product by `result_scale`.
    """

    rule: Literal["delta", "keyed_delta", "state_space"]
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    width: int
    query: Rows
    key: Rows
    value: Rows
    gate: Rows
    weight: Rows | None
    step: Rows
    output: Rows
    convolution: tuple[Rows, Rows, Rows]
    rates: str
    step_bias: str
    skip: str | None
    norm: PartNorm | None
    least_step: float = 0.0
    most_step: float = float("inf")
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gate_scale: float = 1.0
    step_scale: float = 1.0
    result_scale: float = 1.0
    step_down: Rows | None = None
    gate_down: Rows | None = None
    gate_is_sigmoid: bool = False


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """`after` times the causal convolution of `before` times `value`, over `width` tokens by channel."""

    size: int
    width: int
    value: Rows
    before: Rows
    after: Rows
    output: Rows
    convolution: Rows


Mixer: TypeAlias = Recurrence | ShortConvolution
"""What keeps a state of the tokens before, where attention would keep their keys and values."""


def mixer_size(mixer: Mixer) -> int:
    """How many values a mixer's last product takes."""
    if isinstance(mixer, ShortConvolution):
        return mixer.size
    return mixer.value_heads * mixer.value_size


def ranks(mixer: Mixer) -> tuple[int, ...]:
    """Return how many values the second products of gates and steps take, if there are such."""
    if isinstance(mixer, ShortConvolution):
        return ()
    return tuple(down.rows for down in (mixer.step_down, mixer.gate_down) if down is not None)


def state_values(mixer: Mixer) -> int:
    """How many values of a sequence a mixer keeps."""
    if isinstance(mixer, ShortConvolution):
        return (mixer.width - 1) * mixer.size
    channels = 2 * mixer.key_heads * mixer.key_size + mixer_size(mixer)
    return (mixer.width - 1) * channels + mixer_size(mixer) * mixer.key_size
