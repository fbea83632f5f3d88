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

_LEAST_TOKENS: Final = 16
"""Of a tile of the matrix units."""


def product(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
    """(T, columns) times a matrix -> (T, rows), x rounded to e4m3 with a scale a row."""
    values, scales = round_rows(x)
    if len(x) <= FEW_TOKENS:
        return few_product(values, scales, linear, x.dtype)
    library: Any = torch  # the public face of this came with torch 2.10
    return library._scaled_mm(  # noqa: SLF001
        values,
        linear.weight.t(),
        scales[:, None],
        linear.scales[None],
        bias=linear.bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
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


def few_product(
    values: torch.Tensor, scales: torch.Tensor, linear: Fp8, kind: torch.dtype
) -> torch.Tensor:
    """A few rounded rows times a matrix, (T, rows), in `kind`."""
    (rows, columns), count = linear.weight.shape, len(values)
    out = torch.empty((count, rows), dtype=kind, device=values.device)
    fp8.product_kernel[(triton.cdiv(rows, FEW["BLOCK_ROWS"]),)](
        values,
        scales,
        linear.weight,
        linear.scales,
        scales if linear.bias is None else linear.bias,
        out,
        count,
        COLUMNS=columns,
        ROWS=rows,
        TOKENS=max(_LEAST_TOKENS, triton.next_power_of_2(count)),
        BIASED=linear.bias is not None,
        **FEW,
    )
    return out


FEW_TOKENS: Final = 64
"""Rows up to which our own kernel is faster than the library's."""

# Found by trying on an H200; every one is right on any device.
FEW: dict[str, Any] = {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 256, "num_warps": 4, "num_stages": 4}
