# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
"""Products with matrices in FP8 whose scales are by blocks, on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import triton

from penstock.models.backends.lean.kernels import fp8_blocks
from penstock.models.backends.lean.products.int4_products import precision
from penstock.models.backends.lean.products.linear import FP8_GROUP

if TYPE_CHECKING:
    import torch

    from penstock.models.backends.lean.products.linear import Fp8Blocks

FEW_TOKENS: Final = {False: 128, True: 1}
"""Rows up to which these are multiplied as they are, without a wide copy and with one."""

_LEAST_TOKENS: Final = 16
_MOST_TOKENS: Final = 64
_WIDENED_TOGETHER: Final = 1024
"""Columns of a row that one program widens."""


def product(x: torch.Tensor, linear: Fp8Blocks, overlap: dict[str, Any]) -> torch.Tensor:
    """A few rows, (T, columns), times a matrix -> (T, rows)."""
    (rows, columns), count = linear.weight.shape, len(x)
    if count == 1:
        return vector_product(x, linear, overlap)
    out = x.new_empty((count, rows))
    tokens = min(_MOST_TOKENS, max(_LEAST_TOKENS, triton.next_power_of_2(count)))
    how = FEW if x.element_size() == 2 else WIDE  # noqa: PLR2004 - bytes
    fp8_blocks.product_kernel[(triton.cdiv(rows, how["BLOCK_ROWS"]), triton.cdiv(count, tokens))](
        x.contiguous(),
        linear.weight,
        linear.scales,
        x if linear.bias is None else linear.bias,
        out,
        count,
        COLUMNS=columns,
        ROWS=rows,
        TOKENS=tokens,
        GROUP=FP8_GROUP,
        BIASED=linear.bias is not None,
        PRECISION=precision(x),
        **how,
        **overlap,
    )
    return out


def vector_product(x: torch.Tensor, linear: Fp8Blocks, overlap: dict[str, Any]) -> torch.Tensor:
    """One row times a matrix, (1, rows)."""
    rows, columns = linear.weight.shape
    out = x.new_empty((1, rows))
    fp8_blocks.vector_kernel[(rows,)](
        x,
        linear.weight,
        linear.scales,
        x if linear.bias is None else linear.bias,
        out,
        COLUMNS=columns,
        GROUP=FP8_GROUP,
        BIASED=linear.bias is not None,
        **VECTOR,
        **overlap,
    )
    return out


def widen(linear: Fp8Blocks, out: torch.Tensor) -> None:
    """Write the weights into `out` (rows, columns)."""
    rows, columns = linear.weight.shape
    fp8_blocks.widen_kernel[(rows, triton.cdiv(columns, _WIDENED_TOGETHER))](
        linear.weight,
        linear.scales,
        out,
        COLUMNS=columns,
        WIDTH=_WIDENED_TOGETHER,
        GROUP=FP8_GROUP,
        num_warps=4,
    )


# Right on any device.
VECTOR: dict[str, Any] = {"TOGETHER": 16, "num_warps": 4, "num_stages": 1}
FEW: dict[str, Any] = {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "num_warps": 4, "num_stages": 5}
WIDE: dict[str, Any] = {"BLOCK_ROWS": 32, "BLOCK_COLUMNS": 32, "num_warps": 4, "num_stages": 2}
