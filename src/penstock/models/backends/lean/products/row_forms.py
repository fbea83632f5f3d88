# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false
"""The forms in which a product takes its rows, for the kernels that write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from penstock.models.backends.lean.kernels import norm
from penstock.models.backends.lean.operations.ops import Rounded
from penstock.models.backends.lean.products import fp8_products, int4_products
from penstock.models.backends.lean.products.linear import Fp8, Int4
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from penstock.models.backends.lean.operations.ops import Activations
    from penstock.models.backends.lean.products.linear import Linear


def room_for(x: torch.Tensor, columns: int, into: Linear | None) -> Activations:
    """For rows like those of x, (T, columns), as a product with `into` takes them."""
    if isinstance(into, Fp8):
        return fp8_products.room(len(x), columns, x)
    if isinstance(into, Int4) and len(x) == 1 and into.order is None:
        return int4_products.room(x, into)
    return x.new_empty((len(x), columns))


def form(out: Activations) -> int:
    """See `INTO` in `kernels.norm`."""
    if isinstance(out, torch.Tensor):
        return norm.PLAIN.value
    if isinstance(out, Rounded):
        return norm.ROUNDED.value
    return norm.SORTED.value if out.block == q4_0.BLOCK else norm.SORTED_BY_32.value


def pointers(out: Activations) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values, and the scales if there are any."""
    if isinstance(out, torch.Tensor):
        return out, out
    return out.values, out.scales if isinstance(out, Rounded) else out.values
