# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
"""Products with matrices in FP8 on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.backends.lean.kernels import fp8
from penstock.models.backends.lean.operations.ops import Rounded
from penstock.models.backends.lean.products.fp8 import E4M3

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Fp8

_LONG: Final = 8192
"""Columns from which on a row is rounded by more threads."""

_LEAST_TOKENS: Final = 16
"""Of a tile of the matrix units."""


def room(count: int, columns: int, x: torch.Tensor) -> Rounded:
    """For (count, columns) of x's type and device, rounded."""
    values = torch.empty((count, columns), dtype=E4M3, device=x.device)
    scales = torch.empty(count, dtype=torch.float32, device=x.device)
    return Rounded(values, scales, x.dtype)


def round_rows(x: torch.Tensor, overlap: dict[str, Any]) -> Rounded:
    """(T, columns) in e4m3 with a scale a row: see `penstock.models.backends.lean.products.fp8.round_rows`."""
    count, columns = x.shape
    out = room(count, columns, x)
    fp8.round_rows_kernel[(count,)](
        x,
        out.values,
        out.scales,
        x.stride(0),
        COLUMNS=columns,
        WIDTH=triton.next_power_of_2(columns),
        num_warps=16 if columns > _LONG else 8,
        **overlap,
    )
    return out


def product(x: Rounded, linear: Fp8, overlap: dict[str, Any]) -> torch.Tensor:
    """(T, columns) times a matrix -> (T, rows)."""
    if len(x.values) <= FEW_TOKENS:
        return few_product(x, linear, overlap)
    library: Any = torch  # the public face of this came with torch 2.10
    return library._scaled_mm(  # noqa: SLF001 - see above
        x.values,
        linear.weight.t(),
        x.scales[:, None],
        linear.scales[None],
        bias=linear.bias,
        out_dtype=x.kind,
        use_fast_accum=True,
    )


def few_product(x: Rounded, linear: Fp8, overlap: dict[str, Any]) -> torch.Tensor:
    """A few rows times a matrix, (T, rows)."""
    (rows, columns), count = linear.weight.shape, len(x.values)
    out = torch.empty((count, rows), dtype=x.kind, device=x.values.device)
    fp8.product_kernel[(triton.cdiv(rows, FEW["BLOCK_ROWS"]),)](
        x.values,
        x.scales,
        linear.weight,
        linear.scales,
        x.scales if linear.bias is None else linear.bias,
        out,
        count,
        COLUMNS=columns,
        ROWS=rows,
        TOKENS=max(_LEAST_TOKENS, triton.next_power_of_2(count)),
        BIASED=linear.bias is not None,
        **FEW,
        **overlap,
    )
    return out


FEW_TOKENS: Final = 64
"""Rows up to which our own kernel is faster than the library's."""

# Found by trying on an H200; every one is right on any device.
FEW: dict[str, Any] = {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 256, "num_warps": 4, "num_stages": 4}
