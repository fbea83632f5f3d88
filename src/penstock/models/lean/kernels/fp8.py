# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""FP8: activations rounded to e4m3 with a scale a row, and the product of one row.

Both kernels here round alike, and as `penstock.models.lean.fp8` does: products of many rows are the
vendor's library's.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST: tl.constexpr = tl.constexpr(448.0)
LEAST: tl.constexpr = tl.constexpr(1e-30)


@triton.jit
def round_rows_kernel(
    x_ptr, values_ptr, scales_ptr, x_stride, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):
    """Values (rows, COLUMNS) in e4m3 and scales (rows,) of x, one row a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < COLUMNS
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    peak = tl.maximum(tl.max(tl.abs(x), 0), LEAST)
    values = (x * tl.div_rn(LARGEST, peak)).to(tl.float8e4nv)
    tl.store(values_ptr + row * COLUMNS + columns, values, mask=inside)
    tl.store(scales_ptr + row, tl.div_rn(peak, LARGEST))


@triton.jit
def vector_product_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Out (ROWS) = weight (ROWS, COLUMNS) in e4m3 @ x (COLUMNS), rounded first; four rows a program.

    Each program finds x's largest value anew: x is small and near, a kernel before this one is not.
    The four rows are written out, not a dimension of the tile: x then has the layout of a row.
    """
    row = tl.program_id(0).to(tl.int64) * 4
    row_a = tl.minimum(row, ROWS - 1)  # those past the end are the last row again
    row_b = tl.minimum(row + 1, ROWS - 1)
    row_c = tl.minimum(row + 2, ROWS - 1)
    row_d = tl.minimum(row + 3, ROWS - 1)
    offsets = tl.arange(0, BLOCK_COLUMNS)
    peaks = tl.full((BLOCK_COLUMNS,), LEAST, tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        x = tl.load(x_ptr + start + offsets, mask=start + offsets < COLUMNS, other=0.0)
        peaks = tl.maximum(peaks, tl.abs(x.to(tl.float32)))
    peak = tl.max(peaks, 0)
    inverse = tl.div_rn(LARGEST, peak)
    part_a = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    part_b = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    part_c = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    part_d = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        inside = start + offsets < COLUMNS
        at = weight_ptr + start + offsets
        weight_a = tl.load(at + row_a * COLUMNS, mask=inside, other=0.0)
        weight_b = tl.load(at + row_b * COLUMNS, mask=inside, other=0.0)
        weight_c = tl.load(at + row_c * COLUMNS, mask=inside, other=0.0)
        weight_d = tl.load(at + row_d * COLUMNS, mask=inside, other=0.0)
        x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
        x = (x * inverse).to(tl.float8e4nv).to(tl.float32)
        part_a += weight_a.to(tl.float32) * x
        part_b += weight_b.to(tl.float32) * x
        part_c += weight_c.to(tl.float32) * x
        part_d += weight_d.to(tl.float32) * x
    scale = tl.div_rn(peak, LARGEST)
    out_a = tl.sum(part_a, 0) * scale * tl.load(scales_ptr + row_a)
    out_b = tl.sum(part_b, 0) * scale * tl.load(scales_ptr + row_b)
    out_c = tl.sum(part_c, 0) * scale * tl.load(scales_ptr + row_c)
    out_d = tl.sum(part_d, 0) * scale * tl.load(scales_ptr + row_d)
    if BIASED:
        out_a += tl.load(bias_ptr + row_a).to(tl.float32)
        out_b += tl.load(bias_ptr + row_b).to(tl.float32)
        out_c += tl.load(bias_ptr + row_c).to(tl.float32)
        out_d += tl.load(bias_ptr + row_d).to(tl.float32)
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + row_a, out_a.to(kind))
    tl.store(out_ptr + row_b, out_b.to(kind))
    tl.store(out_ptr + row_c, out_c.to(kind))
    tl.store(out_ptr + row_d, out_d.to(kind))
