# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Products with a matrix in e4m3 whose scales are by groups of a row's columns."""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow
from penstock.models.backends.lean.kernels.tiles import tile_product
from penstock.models.backends.lean.kernels.unpacking import FP8


@triton.jit
def product_kernel(
    x_ptr,
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
    GROUP: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (count, ROWS) = x (count, COLUMNS) @ weight (ROWS, COLUMNS) in e4m3 transposed, by groups."""
    follow(OVERLAPS)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = row < ROWS
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    real = token < count
    scales_at = scales_ptr + row * ((COLUMNS + GROUP - 1) // GROUP)
    out = tile_product(
        x_ptr + token.to(tl.int64) * COLUMNS,
        weight_ptr + row.to(tl.int64) * COLUMNS,
        scales_at,
        scales_at,
        real,
        inside,
        COLUMNS,
        1,
        TOKENS,
        BLOCK_ROWS,
        BLOCK_COLUMNS,
        FP8,
        GROUP,
        False,
        PRECISION,
        OVERLAPS,
    )
    if BIASED:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)[None, :]
    out_at = out_ptr + token.to(tl.int64)[:, None] * ROWS + row[None, :]
    tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def vector_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    TOGETHER: tl.constexpr,
    BIASED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (rows) = weight (rows, COLUMNS) in e4m3 @ x (COLUMNS), one row and TOGETHER groups at a time."""
    row = tl.program_id(0).to(tl.int64)
    groups: tl.constexpr = (COLUMNS + GROUP - 1) // GROUP
    group = tl.arange(0, TOGETHER)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    at, scales_at = weight_ptr + row * COLUMNS + column, scales_ptr + row * groups + group
    weight = tl.load(at, mask=column < COLUMNS, other=0.0)
    scale = tl.load(scales_at, mask=group < groups, other=0.0)
    follow(OVERLAPS)
    summed = tl.zeros((TOGETHER, GROUP), tl.float32)
    for start in range(0, groups, TOGETHER):
        columns = start * GROUP + column
        x = tl.load(x_ptr + columns, mask=columns < COLUMNS, other=0.0).to(tl.float32)
        summed += weight.to(tl.float32) * x * scale[:, None]
        after = start + TOGETHER
        there = after * GROUP + column < COLUMNS
        weight = tl.load(at + after * GROUP, mask=there, other=0.0)
        scale = tl.load(scales_at + after, mask=after + group < groups, other=0.0)
    out = tl.sum(tl.sum(summed, 1), 0)
    if BIASED:
        out += tl.load(bias_ptr + row).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty))


@triton.jit
def widen_kernel(
    weight_ptr,
    scales_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Weights in e4m3 in the type of out (rows, COLUMNS): for products of many rows."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < COLUMNS
    weight = tl.load(weight_ptr + row * COLUMNS + column, mask=inside, other=0.0).to(tl.float32)
    groups: tl.constexpr = (COLUMNS + GROUP - 1) // GROUP
    scale = tl.load(scales_ptr + row * groups + column // GROUP, mask=inside, other=0.0)
    tl.store(
        out_ptr + row * COLUMNS + column,
        (weight * scale).to(out_ptr.dtype.element_ty),
        mask=inside,
    )
