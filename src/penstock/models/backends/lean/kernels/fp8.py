# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""FP8: activations rounded to e4m3 with a scale a row, and products of few rows.

Products of many rows are left to the vendor's library.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow

LARGEST: tl.constexpr = tl.constexpr(448.0)
LEAST: tl.constexpr = tl.constexpr(1e-30)


@triton.jit
def store_rounded(x, row, columns, values_ptr, scales_ptr, COLUMNS: tl.constexpr):
    """A row, float32, as e4m3 into values (rows, COLUMNS), and its scale into scales (rows,)."""
    peak = tl.maximum(tl.max(tl.abs(x), 0), LEAST)
    values = (x * tl.div_rn(LARGEST, peak)).to(tl.float8e4nv)
    tl.store(values_ptr + row * COLUMNS + columns, values, mask=columns < COLUMNS)
    tl.store(scales_ptr + row, tl.div_rn(peak, LARGEST))


@triton.jit
def round_rows_kernel(
    x_ptr,
    values_ptr,
    scales_ptr,
    x_stride,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Values (rows, COLUMNS) in e4m3 and scales (rows,) of x, one row a program."""
    follow(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < COLUMNS
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    store_rounded(x, row, columns, values_ptr, scales_ptr, COLUMNS)


@triton.jit
def product_kernel(
    values_ptr,
    x_scales_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    count,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BIASED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (count, ROWS) = values (count, COLUMNS) @ weight (ROWS, COLUMNS) transposed, and scaled.

    The matrix units take e4m3 directly, without conversions, which would be slower than reading the
    weights. A program computes a few rows for all tokens, so that each weight is read once.
    """
    follow(OVERLAPS)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rows_inside = rows < ROWS
    token = tl.arange(0, TOKENS)
    tokens_inside = token < count
    offsets = tl.arange(0, BLOCK_COLUMNS)
    at = weight_ptr + rows.to(tl.int64)[:, None] * COLUMNS + offsets[None, :]
    values_at = values_ptr + token[None, :] * COLUMNS + offsets[:, None]
    summed = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        inside = start + offsets < COLUMNS
        weight = tl.load(at + start, mask=rows_inside[:, None] & inside[None, :], other=0.0)
        values = tl.load(
            values_at + start, mask=inside[:, None] & tokens_inside[None, :], other=0.0
        )
        summed = tl.dot(weight, values, summed)
    scale = tl.load(scales_ptr + rows, mask=rows_inside, other=0.0)
    x_scale = tl.load(x_scales_ptr + token, mask=tokens_inside, other=0.0)
    out = summed * x_scale[None, :] * scale[:, None]
    if BIASED:
        out += tl.load(bias_ptr + rows, mask=rows_inside, other=0.0).to(tl.float32)[:, None]
    tl.store(
        out_ptr + token[None, :] * ROWS + rows[:, None],
        out.to(out_ptr.dtype.element_ty),
        mask=rows_inside[:, None] & tokens_inside[None, :],
    )
