"""What stands beside the main path of a layer: inputs of its own, and experts normed apart from its MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.models.architecture.elements import Activation, Norm
    from penstock.models.architecture.rows import Rows


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """`size` values of a token for each layer, beside the hidden states.

    `sum_scale` times the sum of two: the row of the table `embeddings` times `input_scale`, and the
    product of the model's embeddings with `projection`, times `projection_scale`, then normed.
    """

    size: int
    embeddings: str
    projection: Rows
    norm: Norm
    activation: Activation
    input_scale: float
    projection_scale: float
    sum_scale: float


@dataclass(frozen=True, slots=True)
class OwnInput:
    """h += norm(up(activation(gate(h)) * input)), of one layer; see `LayerInputs`."""

    gate: Rows
    up: Rows
    norm: Norm


@dataclass(frozen=True, slots=True)
class Apart:
    """Experts beside an MLP: their results are normed, each by its own norm, and added.

    Experts take what `experts_in` norms. The router sees RMS-normed hidden states times the tensor
    `router_weight` and `router_scale`.
    """

    experts_in: Norm
    dense_out: Norm
    experts_out: Norm
    router_weight: str
    router_scale: float


@dataclass(frozen=True, slots=True)
class LowRankPart:
    """`up` (`down` x) is added to a product of x, of `columns` values, with `matrix`.

    Layers may share the latter.
    """

    matrix: str
    columns: int
    down: Rows
    up: Rows


@dataclass(frozen=True, slots=True)
class Detour:
    """A layer whose attention and MLP change nothing but what its mixer reads.

    Attention reads the hidden states and, behind them, the model's embeddings, normed together. The
    MLP reads what attention gives, `output` what the MLP gives. The mixer reads the sum of that and
    the hidden states, after `mixer_in`. `pairs` belong to the first products of attention and MLP.
    """

    output: Rows
    mixer_in: Norm
    pairs: tuple[LowRankPart, ...] = ()
