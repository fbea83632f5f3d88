# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
"""Products with matrices in FP8 on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import triton

from penstock.models.lean.fp8 import E4M3
from penstock.models.lean.kernels import fp8

if TYPE_CHECKING:
    from penstock.models.lean.linear import Fp8

_LONG: Final = 8192
"""Columns from which on a row is rounded by more threads."""


def product(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
    """(T, columns) times a matrix -> (T, rows), x rounded to e4m3 with a scale a row."""
    if len(x) == 1:
        return vector_product(x, linear)
    values, scales = round_rows(x)
    # Its public face came with torch 2.10.
    return torch._scaled_mm(  # noqa: SLF001
        values,
        linear.weight.t(),
        scales[:, None],
        linear.scales[None],
        bias=linear.bias,
        out_dtype=x.dtype,
        use_fast_accum=FAST,
    )


def round_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `penstock.models.lean.fp8.round_rows`."""
    count, columns = x.shape
    values = torch.empty((count, columns), dtype=E4M3, device=x.device)
    scales = torch.empty(count, dtype=torch.float32, device=x.device)
    fp8.round_rows_kernel[(count,)](
        x,
        values,
        scales,
        x.stride(0),
        COLUMNS=columns,
        WIDTH=triton.next_power_of_2(columns),
        num_warps=16 if columns > _LONG else 8,
    )
    return values, scales


def vector_product(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
    """One row times a matrix, (1, rows)."""
    rows, columns = linear.weight.shape
    out = x.new_empty((1, rows))
    fp8.vector_product_kernel[(triton.cdiv(rows, 4),)](
        x,
        linear.weight,
        linear.scales,
        x if linear.bias is None else linear.bias,
        out,
        COLUMNS=columns,
        ROWS=rows,
        BIASED=linear.bias is not None,
        **VECTOR,
    )
    return out


# Found by trying on an H200; every one is right on any device.
FAST: Final = True
"""Matrix units sum up FP8 in fewer bits, faster."""

VECTOR: dict[str, Any] = {"BLOCK_COLUMNS": 2048, "num_warps": 4, "num_stages": 3}
