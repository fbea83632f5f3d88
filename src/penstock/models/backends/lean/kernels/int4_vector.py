# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""One row times an int4 matrix, near the rate at which a GPU can unpack.

The row is sorted by the nibbles that it is multiplied with, (9, COLUMNS / 8) float32, so that loads
are contiguous. A nibble becomes a number through the bits above it, as its value plus a power of
two; if that power is small, it is not subtracted from each weight but once from the sum: that is
the ninth row, the same for all rows of a matrix. The error is about 3e-5 of a sum, so float32
models do not use this. The order depends on the BLOCK of columns that are packed together.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow
from penstock.models.backends.lean.kernels.products import HIGH, number_of, weights_of

LEFT: tl.constexpr = tl.constexpr(3)
"""Nibbles below this one are taken from words shifted left by 8; from HIGH on, right by 12."""

PRECISE: tl.constexpr = tl.constexpr(12)
"""A nibble taken at this bit or higher has an excess of at most 2**11, which float32 tolerates."""


@triton.jit
def _numbers_of(words, K: tl.constexpr, magic, EXACT: tl.constexpr):
    """The K-th nibbles: value - 8, or what the ninth row makes of that: value + 2**(23 - place)."""
    place: tl.constexpr = 4 * K + 8 if K < LEFT else 4 * K if K < HIGH else 4 * K - 12
    if EXACT or place < PRECISE:
        numbers = weights_of(words, K, magic)
    else:
        bits = words << 8 if K < LEFT else words if K < HIGH else words >> 12
        numbers = number_of(bits, place, magic)
    return numbers


@triton.jit
def store_sorted(
    x, first, out_ptr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """A row's WIDTH columns from `first` on, float32, by nibbles; see above."""
    columns = first + tl.arange(0, WIDTH)
    nibble = columns % 4 * 2 + columns % BLOCK // (BLOCK // 2)
    word = columns // BLOCK * (BLOCK // 8) + columns % (BLOCK // 2) // 4
    tl.store(out_ptr + nibble * (COLUMNS // 8) + word, x, mask=columns < COLUMNS)
    shift = tl.where(nibble < LEFT, -8, tl.where(nibble < HIGH, 0, 12))
    place = 4 * nibble - shift
    excess = tl.where(place < PRECISE, 0, (1 << (23 - place)) + 8).to(tl.float32)
    summed = tl.sum(tl.sum(tl.reshape(x * excess, (WIDTH // BLOCK, 2, BLOCK // 8, 4)), 3), 1)
    blocks = tl.arange(0, WIDTH // BLOCK)[:, None] * (BLOCK // 8)
    words = first // 8 + blocks + tl.arange(0, BLOCK // 8)[None, :]
    tl.store(out_ptr + COLUMNS + words, -summed, mask=words < COLUMNS // 8)


@triton.jit
def int4_sort_kernel(
    x_ptr,
    order_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ORDERED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Sort a row (COLUMNS), or if ORDERED its columns `order`: see `store_sorted`."""
    first = tl.program_id(0) * WIDTH
    columns = first + tl.arange(0, WIDTH)
    inside = columns < COLUMNS
    source = tl.load(order_ptr + columns, mask=inside, other=0) if ORDERED else columns
    follow(OVERLAPS)
    x = tl.load(x_ptr + source, mask=inside, other=0.0).to(tl.float32)
    store_sorted(x, first, out_ptr, COLUMNS, WIDTH, BLOCK)


@triton.jit
def int4_vector_kernel(
    x_ptr,
    packed_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    out_ptr,
    magic,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    PIECES: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    BIASED: tl.constexpr,
    EXACT: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (ROWS) = int4 weight (ROWS, COLUMNS) @ x (COLUMNS, sorted), TOGETHER rows a program.

    PIECES pieces of 32 columns at a time; a piece is four words, all or some of those that share a scale.
    With a thread a piece every thread has the same words of all the rows, and what these meet:
    nothing has to change places between threads. `magic` is MAGIC, but no constant: an instruction
    takes one of these, and the masks of the nibbles are.
    """
    row = tl.program_id(0).to(tl.int64) * TOGETHER + tl.arange(0, TOGETHER)
    row = tl.minimum(row, ROWS - 1)  # those past the end are the last row again
    piece = tl.arange(0, PIECES)
    places = piece[:, None] * 4 + tl.arange(0, 4)[None, :]
    at = packed_ptr + row[None, :, None] * (COLUMNS // 8) + places[:, None, :]
    of_scale: tl.constexpr = GROUP // 32
    group = row[None, :, None] * (COLUMNS // GROUP) + (piece // of_scale)[:, None, None]
    here = piece < COLUMNS // 32
    words = tl.load(at, mask=here[:, None, None], other=0)
    scale = tl.load(scales_ptr + group, mask=here[:, None, None], other=0.0)
    zero = tl.load(zeros_ptr + group, mask=here[:, None, None], other=0) if ZEROED else scale
    summed = tl.zeros((PIECES, TOGETHER, 1), tl.float32)
    follow(OVERLAPS)
    for start in range(0, COLUMNS // 32, PIECES):
        after = start + PIECES
        there = after + piece < COLUMNS // 32
        next_words = tl.load(at + after * 4, mask=there[:, None, None], other=0)
        next_group = group + after // of_scale
        next_scale = tl.load(scales_ptr + next_group, mask=there[:, None, None], other=0.0)
        next_zero = next_scale
        if ZEROED:
            next_zero = tl.load(zeros_ptr + next_group, mask=there[:, None, None], other=0)
        x_at = x_ptr + start * 4 + places
        part = tl.zeros((PIECES, TOGETHER, 4), tl.float32)
        whole = tl.zeros((PIECES, 4), tl.float32)
        if not EXACT:
            part += tl.load(x_at + COLUMNS, mask=here[:, None], other=0.0)[:, None, :]
        for k in tl.static_range(8):
            x = tl.load(x_at + k * (COLUMNS // 8), mask=here[:, None], other=0.0)
            part += _numbers_of(words, k, magic, EXACT) * x[:, None, :]
            if ZEROED:
                whole += x
        product = tl.sum(part, 2, keep_dims=True)
        if ZEROED:
            product -= zero.to(tl.float32) * tl.sum(whole, 1)[:, None, None]
        summed += product * scale.to(tl.float32)
        words, scale, zero, here = next_words, next_scale, next_zero, there
    out = tl.sum(tl.sum(summed, 2), 0)
    if BIASED:
        out += tl.load(bias_ptr + row).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty))
