# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""How the Triton kernels of mixtures of experts are launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.architecture.description import ClampedGate
from penstock.models.backends.lean.kernels import activations, unpacking
from penstock.models.backends.lean.kernels import experts as kernels
from penstock.models.backends.lean.kernels import routing as routing_kernels
from penstock.models.backends.lean.products.int4_products import precision
from penstock.models.backends.lean.products.linear import FP8_GROUP, Fp8Blocks, Int4

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Matrices
    from penstock.models.backends.lean.weights import ExpertWeights

_SCORINGS: Final = {
    "softmax": routing_kernels.SOFTMAX.value,
    "softmax_of_chosen": routing_kernels.SOFTMAX_OF_CHOSEN.value,
    "sigmoid": routing_kernels.SIGMOID.value,
}
_BY_PAIR: Final = 1024
"""Pairs up to which a program looks for the tile that begins at its place."""


@dataclass(frozen=True, slots=True)
class Held:
    """All experts' matrices as the kernels take them; see `kernels.unpacking`.

    `values` (experts, rows, columns), or words of codes; `tensors` are these, scales and zeros.
    """

    form: int
    values: torch.Tensor
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    groups: int = 1
    group: int = 1
    zeroed: bool = False

    @staticmethod
    def of(matrices: Matrices) -> Held:
        """Those in any format."""
        if isinstance(matrices, Int4):
            values, scales = matrices.packed, matrices.scales
            zeros, form = matrices.zeros, unpacking.E2M1 if matrices.floats else unpacking.INT4
            tensors = (values, scales, scales if zeros is None else zeros)
            groups, group = scales.shape[2], matrices.group
            return Held(form.value, values, tensors, groups, group, zeros is not None)
        if isinstance(matrices, Fp8Blocks):
            values, scales = matrices.weight, matrices.scales
            tensors = (values, scales, scales)
            return Held(unpacking.FP8.value, values, tensors, scales.shape[2], FP8_GROUP)
        return Held(unpacking.PLAIN.value, matrices, (matrices, matrices, matrices))

    @property
    def layout(self) -> dict[str, Any]:
        """The kernels' constants for them."""
        return {
            "ROW_STRIDE": self.values.stride(1),
            "COLUMN_STRIDE": self.values.stride(2),
            "GROUPS": self.groups,
            "FORM": self.form,
            "GROUP": self.group,
            "ZEROED": self.zeroed,
        }


def compute(
    x: torch.Tensor,
    logits: torch.Tensor,
    positions: torch.Tensor,
    weights: ExpertWeights,
    overlap: dict[str, Any],
    *,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `Ops.experts`; `logits` (T, experts) are the router's, `beside` is gated already.

    Tokens whose `positions` are below 0 are padding.
    """
    count, hidden = x.shape
    routing = weights.form.routing
    pairs = count * routing.chosen
    chosen = torch.empty(pairs, dtype=torch.int32, device=x.device)
    shares = torch.empty(pairs, dtype=torch.float32, device=x.device)
    routing_kernels.choose_experts_kernel[(count,)](
        logits,
        positions,
        logits if weights.correction is None else weights.correction,
        chosen,
        shares,
        routing.least_sum,
        routing.added_sum,
        routing.scale,
        EXPERTS=routing.experts,
        WIDTH=triton.next_power_of_2(routing.experts),
        CHOSEN=routing.chosen,
        SLOTS=triton.next_power_of_2(routing.chosen),
        SCORING=_SCORINGS[routing.scoring],
        CORRECTED=weights.correction is not None,
        NORMALISE=routing.normalise,
        num_warps=1,
        **overlap,
    )
    order, owners = torch.empty_like(chosen), torch.empty_like(chosen)
    bounds = torch.empty((routing.experts + 1, 2), dtype=torch.int32, device=x.device)
    routing_kernels.group_pairs_kernel[(routing.experts + 1,)](
        chosen, order, owners, bounds, pairs, WIDTH=1024, num_warps=4, **overlap
    )
    sorted_pairs = (order, owners, bounds)
    inner = _gate_up(x, weights, sorted_pairs, overlap)
    parts = _down(inner, shares, weights, sorted_pairs, overlap)
    out = torch.empty_like(x)
    kernels.sum_experts_kernel[(count, triton.cdiv(hidden, 1024))](
        parts,
        chosen,
        x if beside is None else beside,
        out,
        EXPERTS=routing.experts,
        CHOSEN=routing.chosen,
        SIZE=hidden,
        WIDTH=1024,
        BESIDE=beside is not None,
        num_warps=4,
        **overlap,
    )
    return out


def _gate_up(
    x: torch.Tensor,
    weights: ExpertWeights,
    sorted_pairs: tuple[torch.Tensor, ...],
    overlap: dict[str, Any],
) -> torch.Tensor:
    """The experts' gated products, (places, size)."""
    routing, size, held = weights.form.routing, weights.form.size, Held.of(weights.gate_up)
    pairs, activation = len(sorted_pairs[0]), weights.form.activation
    clamped = activation if isinstance(activation, ClampedGate) else None
    number = (
        activations.CLAMPED.value
        if isinstance(activation, ClampedGate)
        else activations.NUMBERS[activation]
    )
    out = x.new_empty((pairs, size))
    how = _form(x, pairs, routing.experts, GATE_UP[held.form])
    kernels.expert_gate_up_kernel[_grid(size, pairs, routing.chosen, routing.experts, how)](
        x,
        *held.tensors,
        x if weights.gate_up_bias is None else weights.gate_up_bias,
        *sorted_pairs,
        out,
        held.values.stride(0),
        0.0 if clamped is None else clamped.alpha,
        0.0 if clamped is None else clamped.limit,
        EXPERTS=routing.experts,
        CHOSEN=routing.chosen,
        COLUMNS=x.shape[1],
        SIZE=size,
        BY_PAIR=pairs <= _BY_PAIR,
        INTERLEAVED=weights.interleaved,
        BIASED=weights.gate_up_bias is not None,
        ACTIVATION=number,
        PRECISION=precision(x),
        **held.layout,
        **how,
        **overlap,
    )
    return out


def _down(
    inner: torch.Tensor,
    shares: torch.Tensor,
    weights: ExpertWeights,
    sorted_pairs: tuple[torch.Tensor, ...],
    overlap: dict[str, Any],
) -> torch.Tensor:
    """The experts' weighted results, (pairs, hidden)."""
    routing, held = weights.form.routing, Held.of(weights.down)
    pairs, rows = len(sorted_pairs[0]), held.values.shape[1]
    out = inner.new_empty((pairs, rows))
    how = _form(inner, pairs, routing.experts, DOWN[held.form])
    kernels.expert_down_kernel[_grid(rows, pairs, routing.chosen, routing.experts, how)](
        inner,
        *held.tensors,
        inner if weights.down_bias is None else weights.down_bias,
        shares,
        *sorted_pairs,
        out,
        held.values.stride(0),
        EXPERTS=routing.experts,
        COLUMNS=inner.shape[1],
        ROWS=rows,
        BY_PAIR=pairs <= _BY_PAIR,
        BIASED=weights.down_bias is not None,
        PRECISION=precision(inner),
        **held.layout,
        **how,
        **overlap,
    )
    return out


def _grid(rows: int, pairs: int, chosen: int, experts: int, how: dict[str, Any]) -> tuple[int, ...]:
    """Blocks of rows, then places; or experts and the tiles that one may have at most."""
    blocks = triton.cdiv(rows, how["BLOCK_ROWS"])
    if pairs <= _BY_PAIR:
        return blocks, pairs, 1
    return blocks, experts, triton.cdiv(pairs // chosen, how["PAIRS"])


def _form(
    x: torch.Tensor, pairs: int, experts: int, forms: tuple[dict[str, Any], ...]
) -> dict[str, Any]:
    """Tiles by how many pairs an expert has on average."""
    wide, few, some, many = forms
    if x.element_size() != 2:  # noqa: PLR2004 - bytes
        return wide
    average = pairs / experts
    if average <= 8:  # noqa: PLR2004 - pairs
        return few
    return some if average <= 48 else many  # noqa: PLR2004 - likewise


_GATE_UP: Final[tuple[dict[str, Any], ...]] = (
    {"PAIRS": 16, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 32, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 16, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 4},
    {"PAIRS": 32, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 64, "num_warps": 4, "num_stages": 4},
    {"PAIRS": 128, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 64, "num_warps": 8, "num_stages": 3},
)
"""Tiles for float32, and for 16 bits with few, some and many pairs an expert."""

_DOWN: Final[tuple[dict[str, Any], ...]] = (
    {"PAIRS": 16, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 32, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 16, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 4},
    {"PAIRS": 32, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 64, "num_warps": 4, "num_stages": 4},
    {"PAIRS": 128, "BLOCK_ROWS": 128, "BLOCK_COLUMNS": 64, "num_warps": 8, "num_stages": 3},
)

_OF_CODES: Final[tuple[dict[str, Any], ...]] = (
    {"PAIRS": 16, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 16, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 32, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 128, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 8, "num_stages": 3},
)
"""Of codes of 4 bit."""

_OF_FP8: Final[tuple[dict[str, Any], ...]] = (
    {"PAIRS": 16, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 32, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 16, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 4},
    {"PAIRS": 32, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 2},
    {"PAIRS": 128, "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 8, "num_stages": 3},
)

GATE_UP: Final = {0: _GATE_UP, 1: _OF_FP8, 2: _OF_CODES, 3: _OF_CODES}
DOWN: Final = {0: _DOWN, 1: _OF_FP8, 2: _OF_CODES, 3: _OF_CODES}
"""Tiles by the number of a form; see `kernels.unpacking`."""
