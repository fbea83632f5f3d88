"""GPTQ: rounds a matrix column by column, each next one making up for the errors before it.

After "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (Frantar et
al., 2022): columns in the order of their inputs' size, errors passed on by the inverse of the inputs'
second moments, from its Cholesky factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

BITS: Final = 4
LARGEST: Final = (1 << BITS) - 1
MIDDLE: Final = 1 << (BITS - 1)
_DAMPING: Final = 0.01
"""Of the mean second moment, added to each: inputs that are seldom seen."""
_BLOCK: Final = 128
"""Columns whose errors are passed on to the rest together."""
_SHRINKS: Final = tuple(1 - step / 40 for step in range(13))
"""Shares of a group's range that are tried for its scale."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix in 4 bit: `values` are `scales` * (`codes` - `zeros`), by the columns' groups.

    `codes` (rows, columns) uint8, `scales` (rows, groups) fp16, `zeros` (rows, groups) uint8 and
    `groups` (columns) int64.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    groups: torch.Tensor

    def values(self) -> torch.Tensor:
        """The weights that the codes stand for, (rows, columns) float32."""
        scales = self.scales.float()[:, self.groups]
        return (self.codes.float() - self.zeros.float()[:, self.groups]) * scales


def rounded(
    weight: torch.Tensor,
    moments: torch.Tensor,
    group: int,
    *,
    symmetric: bool,
    in_order: bool,
) -> Rounded:
    """Round a matrix (rows, columns).

    `moments` (columns, columns) are the sum of its inputs' outer products. `in_order` takes the
    columns of the largest inputs first, which makes their groups' columns no neighbours.

    :raises ValueError: the moments are not numbers.
    """
    rows, columns = weight.shape
    left = weight.float().clone()
    moments = moments.float().clone()
    dead = moments.diagonal() == 0
    moments.diagonal()[dead] = 1
    left[:, dead] = 0
    order = torch.arange(columns)
    if in_order:
        order = moments.diagonal().argsort(descending=True, stable=True)
        left, moments = left[:, order], moments[order][:, order]
    factor = _inverse_factor(moments)
    codes = torch.zeros((rows, columns), dtype=torch.uint8)
    scales = torch.zeros((rows, columns // group))
    zeros = torch.zeros((rows, columns // group))
    for first in range(0, columns, _BLOCK):
        last = min(first + _BLOCK, columns)
        errors = torch.zeros((rows, last - first))
        for column in range(first, last):
            number = column // group
            if column % group == 0:
                own = left[:, column : column + group]
                scales[:, number], zeros[:, number] = _scale(own, symmetric=symmetric)
            scale, zero = scales[:, number], zeros[:, number]
            code = (left[:, column] / scale + zero).round().clamp(0, LARGEST)
            codes[:, column] = code.to(torch.uint8)
            error = (left[:, column] - (code - zero) * scale) / factor[column, column]
            left[:, column:last] -= error[:, None] * factor[column, column:last][None]
            errors[:, column - first] = error
        left[:, last:] -= errors @ factor[first:last, last:]
    numbers = torch.empty(columns, dtype=torch.int64)
    numbers[order] = torch.arange(columns) // group
    placed = torch.empty_like(codes)
    placed[:, order] = codes
    return Rounded(placed, scales.half(), zeros.to(torch.uint8), numbers)


def _inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped moments' inverse.

    :raises ValueError: they are not numbers.
    """
    linalg: Any = torch.linalg
    damping = _DAMPING * float(moments.diagonal().mean())
    for _ in range(8):
        damped = moments.clone()
        damped.diagonal().add_(damping)
        factor, failed = linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            upper, failed = linalg.cholesky_ex(inverse, upper=True)
            if not int(failed) and bool(upper.isfinite().all()):
                return upper
        damping *= 10
    raise ValueError("what the model computes is not numbers")


def _scale(own: torch.Tensor, *, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's scale and zero for one group, (rows,) each: of some ranges the one of least error."""
    low, high = own.amin(1).clamp(max=0), own.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    best = torch.full((len(own),), torch.inf)
    scales, zeros = torch.ones(len(own)), torch.zeros(len(own))
    for share in _SHRINKS:
        scale = ((high - low) * share / LARGEST).half().float()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = (
            torch.full_like(scale, MIDDLE)
            if symmetric
            else (-low * share / scale).round().clamp(0, LARGEST)
        )
        codes = (own / scale[:, None] + zero[:, None]).round().clamp(0, LARGEST)
        error = ((codes - zero[:, None]) * scale[:, None] - own).square().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        scales = torch.where(better, scale, scales)
        zeros = torch.where(better, zero, zeros)
    return scales, zeros
