# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""One row times a matrix in int4, near what a GPU can unpack.

The row comes sorted by the nibbles that it meets, (8, COLUMNS / 8) float32: a load of it then is
of neighbours, and what is to be done to it is done once, not for every four rows of the matrix.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.lean.kernels.overlap import follow
from penstock.models.lean.kernels.products import HIGH, weights_of


@triton.jit
def store_sorted(x, columns, out_ptr, COLUMNS: tl.constexpr):
    """A row, float32, by nibbles: word by word what they meet, their shifts taken out."""
    nibble = columns % 4 * 2 + columns % 64 // 32
    word = columns // 64 * 8 + columns % 32 // 4
    shift = tl.where(nibble < HIGH, 4 * nibble, 4 * nibble - 12)
    unshifted = x * tl.exp2(-shift.to(tl.float32))
    tl.store(out_ptr + nibble * (COLUMNS // 8) + word, unshifted, mask=columns < COLUMNS)


@triton.jit
def int4_sort_kernel(
    x_ptr, out_ptr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr
):
    """Sort a row (COLUMNS): see `store_sorted`."""
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    follow(OVERLAPS)
    x = tl.load(x_ptr + columns, mask=columns < COLUMNS, other=0.0).to(tl.float32)
    store_sorted(x, columns, out_ptr, COLUMNS)


@triton.jit
def _dot_of(part, scale):
    """The sum of (pieces, 4) float32 parts, each piece under its scale."""
    return tl.sum(tl.sum(part, 1) * scale.to(tl.float32), 0)


@triton.jit
def int4_vector_kernel(
    x_ptr,
    packed_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    magic,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    BIASED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (ROWS) = int4 weight (ROWS, COLUMNS) @ x (COLUMNS, sorted), four rows a program.

    PIECES pieces of 32 columns at a time; a piece is four words, half of those that share a scale.
    The four rows are written out, not a dimension of the tile: x then has the layout of the words,
    and nothing has to change places between threads. `magic` is MAGIC, but no constant: an
    instruction takes one of these, and the masks of the nibbles are.
    """
    row = tl.program_id(0).to(tl.int64) * 4
    row_a = tl.minimum(row, ROWS - 1)  # those past the end are the last row again
    row_b = tl.minimum(row + 1, ROWS - 1)
    row_c = tl.minimum(row + 2, ROWS - 1)
    row_d = tl.minimum(row + 3, ROWS - 1)
    piece = tl.arange(0, PIECES)
    words = piece[:, None] * 4 + tl.arange(0, 4)[None, :]
    at_a = packed_ptr + row_a * (COLUMNS // 8) + words
    at_b = packed_ptr + row_b * (COLUMNS // 8) + words
    at_c = packed_ptr + row_c * (COLUMNS // 8) + words
    at_d = packed_ptr + row_d * (COLUMNS // 8) + words
    inside = (piece < COLUMNS // 32)[:, None]
    words_a = tl.load(at_a, mask=inside, other=0)
    words_b = tl.load(at_b, mask=inside, other=0)
    words_c = tl.load(at_c, mask=inside, other=0)
    words_d = tl.load(at_d, mask=inside, other=0)
    scales_at = scales_ptr + piece // 2
    follow(OVERLAPS)
    out_a, out_b, out_c, out_d = 0.0, 0.0, 0.0, 0.0
    for start in range(0, COLUMNS // 32, PIECES):
        here = start + piece < COLUMNS // 32
        half = start // 2
        scale_a = tl.load(scales_at + row_a * (COLUMNS // 64) + half, mask=here, other=0.0)
        scale_b = tl.load(scales_at + row_b * (COLUMNS // 64) + half, mask=here, other=0.0)
        scale_c = tl.load(scales_at + row_c * (COLUMNS // 64) + half, mask=here, other=0.0)
        scale_d = tl.load(scales_at + row_d * (COLUMNS // 64) + half, mask=here, other=0.0)
        part_a = tl.zeros((PIECES, 4), tl.float32)
        part_b = tl.zeros((PIECES, 4), tl.float32)
        part_c = tl.zeros((PIECES, 4), tl.float32)
        part_d = tl.zeros((PIECES, 4), tl.float32)
        for k in tl.static_range(8):
            x_at = x_ptr + k * (COLUMNS // 8) + start * 4 + words
            x = tl.load(x_at, mask=here[:, None], other=0.0)
            part_a += weights_of(words_a, k, magic) * x
            part_b += weights_of(words_b, k, magic) * x
            part_c += weights_of(words_c, k, magic) * x
            part_d += weights_of(words_d, k, magic) * x
        out_a += _dot_of(part_a, scale_a)
        out_b += _dot_of(part_b, scale_b)
        out_c += _dot_of(part_c, scale_c)
        out_d += _dot_of(part_d, scale_d)
        after = start + PIECES
        inside = (after + piece < COLUMNS // 32)[:, None]
        words_a = tl.load(at_a + after * 4, mask=inside, other=0)
        words_b = tl.load(at_b + after * 4, mask=inside, other=0)
        words_c = tl.load(at_c + after * 4, mask=inside, other=0)
        words_d = tl.load(at_d + after * 4, mask=inside, other=0)
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
