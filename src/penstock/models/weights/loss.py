"""What holding weights in another format than the published one has cost them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from penstock.models.weights.matrices import Matrix


class Loss:
    """Sums over all weights of what was published and of what is held in its place."""

    def __init__(self) -> None:
        self.squares = 0.0
        self.errors = 0.0
        self.forms: set[str] = set()

    def add(self, values: torch.Tensor, held: Matrix) -> None:
        """Count a matrix that is held as something else. `values` are those that were published."""
        self.forms.add(held.form)
        self.add_error(values, widened(held))

    def add_error(self, values: torch.Tensor, held: torch.Tensor) -> None:
        """Count a tensor by the values that stand for it."""
        values = values.float()
        self.squares += float(values.square().sum(dtype=torch.float64))
        self.errors += float((values - held.float()).square().sum(dtype=torch.float64))

    def add_exact(self, values: torch.Tensor) -> None:
        """Count a matrix of which nothing was lost."""
        self.squares += float(values.float().square().sum(dtype=torch.float64))

    @property
    def relative(self) -> float:
        """The root of the summed squared errors over that of the summed squares."""
        return math.sqrt(self.errors / self.squares) if self.squares else 0.0


def widened(matrix: Matrix) -> torch.Tensor:
    """The values that a matrix stands for, float32."""
    values = torch.as_tensor(matrix.values)
    if matrix.kind == "bf16":
        return values.view(torch.bfloat16).float()
    if matrix.scales is None:
        return values.float()
    if matrix.kind == "i4":
        return torch.as_tensor(q4_0.dequantize(matrix.values, matrix.scales))
    return values.float() * torch.as_tensor(matrix.scales)
