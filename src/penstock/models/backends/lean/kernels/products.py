# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Products of few rows with a weight matrix, which read the weights once, near the bandwidth.

`int4` weights have an offset of 8, and GROUP neighbours in a row share a scale, and a zero if they are
ZEROED: by how much it differs from 8. They are packed eight to a 32-bit word: byte j of word w has, of
a block of 64 columns, number 4 (w % 8) + j in its low nibble, and number 32 + 4 (w % 8) + j in its
high one. In groups of 32 columns, blocks are as small.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.overlap import follow

MAGIC: tl.constexpr = tl.constexpr(0x4B000000)
"""The exponent of 2**23 as a float has it."""

HIGH: tl.constexpr = tl.constexpr(5)
"""Nibbles from this one on lie beyond a float's mantissa: their words are shifted first."""


@triton.jit
def vector_product_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BIASED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out (ROWS) = weight (ROWS, COLUMNS) @ x (COLUMNS)."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rows_inside = rows < ROWS
    offsets = tl.arange(0, BLOCK_COLUMNS)
    at = weight_ptr + rows.to(tl.int64)[:, None] * COLUMNS + offsets[None, :]
    inside = offsets < COLUMNS
    weight = tl.load(at, mask=rows_inside[:, None] & inside[None, :], other=0.0)
    follow(OVERLAPS)
    summed = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
        summed += weight.to(tl.float32) * x[None, :]
        after = start + BLOCK_COLUMNS
        inside = after + offsets < COLUMNS
        weight = tl.load(at + after, mask=rows_inside[:, None] & inside[None, :], other=0.0)
    out = tl.sum(summed, 1)
    if BIASED:
        out += tl.load(bias_ptr + rows, mask=rows_inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=rows_inside)


@triton.jit
def number_of(bits, PLACE: tl.constexpr, magic):
    """Return the nibble at bit PLACE as a float32: value + 2**(23 - PLACE).

    Under the exponent that makes its lowest bit a unit, a nibble's bits are a valid float: no
    conversion is needed, which GPUs do at a quarter of the rate of other operations or slower.
    """
    number = (bits & (15 << PLACE)) | (magic - (PLACE << 23))
    return number.to(tl.float32, bitcast=True)


@triton.jit
def weights_of(words, K: tl.constexpr, magic=MAGIC):
    """The K-th nibbles of some words as float32 numbers: value - 8, exactly."""
    place: tl.constexpr = 4 * K if K < HIGH else 4 * K - 12
    bits = words if K < HIGH else words >> 12
    return number_of(bits, place, magic) - ((1 << (23 - place)) + 8.0)


@triton.jit
def int4_product_kernel(
    x_ptr,
    packed_ptr,
    scales_ptr,
    zeros_ptr,
    bias_ptr,
    out_ptr,
    count,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Out (count, ROWS) = x (count, COLUMNS) @ int4 weight transposed, WORDS words at a time.

    x is sorted by nibbles: (count, 8, COLUMNS / 8), row k what the k-th nibbles of the words meet.
    The product is taken transposed, so that the weights are the matrix units' first operand, which
    may stay in registers. With SPLITS, out is (SPLITS, count, ROWS) float32, parts of the sum.
    """
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rows_inside = rows < ROWS
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    tokens_inside = token < count
    word = tl.arange(0, WORDS)
    kind = x_ptr.dtype.element_ty
    at = packed_ptr + rows.to(tl.int64)[:, None] * (COLUMNS // 8) + word[None, :]
    groups = rows.to(tl.int64)[:, None] * (COLUMNS // GROUP) + word[None, :] // (GROUP // 8)
    x_at = x_ptr + token.to(tl.int64)[None, :] * COLUMNS + word[:, None]
    summed = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
    part = tl.program_id(2)
    for start in range(part * WORDS, COLUMNS // 8, SPLITS * WORDS):
        inside = start + word < COLUMNS // 8
        both = rows_inside[:, None] & inside[None, :]
        words = tl.load(at + start, mask=both, other=0)
        group = groups + start // (GROUP // 8)
        scale = tl.load(scales_ptr + group, mask=both, other=0.0).to(tl.float32)
        zero = tl.load(zeros_ptr + group, mask=both, other=0).to(tl.float32) if ZEROED else 0.0
        for k in tl.static_range(8):
            x = tl.load(
                x_at + start + k * (COLUMNS // 8),
                mask=inside[:, None] & tokens_inside[None, :],
                other=0.0,
            )
            weights = ((weights_of(words, k) - zero) * scale).to(kind)
            summed = tl.dot(weights, x, summed, input_precision=PRECISION)
    if BIASED:
        bias = tl.load(bias_ptr + rows, mask=rows_inside, other=0.0).to(tl.float32)
        summed += tl.where(part == 0, bias, 0.0)[:, None]
    first = part.to(tl.int64) * count * ROWS
    out_at = out_ptr + first + token.to(tl.int64)[None, :] * ROWS + rows[:, None]
    tl.store(
        out_at,
        summed.to(out_ptr.dtype.element_ty),
        mask=rows_inside[:, None] & tokens_inside[None, :],
    )


@triton.jit
def int4_widen_kernel(
    packed_ptr,
    scales_ptr,
    zeros_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    ZEROED: tl.constexpr,
):
    """The weights themselves, in the type of out (rows, COLUMNS): for products of many rows."""
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    inside = word < COLUMNS // 8
    words = tl.load(packed_ptr + row * (COLUMNS // 8) + word, mask=inside, other=0)
    group = row * (COLUMNS // GROUP) + word // (GROUP // 8)
    scale = tl.load(scales_ptr + group, mask=inside, other=0.0).to(tl.float32)
    zero = tl.load(zeros_ptr + group, mask=inside, other=0).to(tl.float32) if ZEROED else 0.0
    column = word // (BLOCK // 8) * BLOCK + word % (BLOCK // 8) * 4
    for k in tl.static_range(8):
        weights = (weights_of(words, k) - zero) * scale
        place = out_ptr + row * COLUMNS + column + k % 2 * (BLOCK // 2) + k // 2
        tl.store(place, weights.to(out_ptr.dtype.element_ty), mask=inside)
