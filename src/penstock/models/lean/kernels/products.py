# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Products of few rows with a weight matrix, which read the weights once and near the bandwidth.

`int4` weights have an offset of 8, and 64 neighbours in a row share one fp16 scale. They are packed
eight to a 32-bit word: nibble k of word w holds column 32 (w // 4) + 4 k + w % 4, so that the k-th
nibbles of four neighbouring words meet four neighbouring inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
):
    """Out (ROWS) = weight (ROWS, COLUMNS) @ x (COLUMNS)."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rows_inside = rows < ROWS
    offsets = tl.arange(0, BLOCK_COLUMNS)
    weights = weight_ptr + rows.to(tl.int64)[:, None] * COLUMNS + offsets[None, :]
    summed = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        inside = start + offsets < COLUMNS
        x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(
            weights + start, mask=rows_inside[:, None] & inside[None, :], other=0.0
        ).to(tl.float32)
        summed += weight * x[None, :]
    out = tl.sum(summed, 1)
    if BIASED:
        out += tl.load(bias_ptr + rows, mask=rows_inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=rows_inside)


@triton.jit
def _weights_of(words, K: tl.constexpr):
    """The K-th nibbles of some words as float32 numbers: (value - 8) * 2**shift, exactly.

    The bits of a nibble, under the exponent of 2**23, are a float as they stand: no conversion,
    which GPUs do at a quarter of the rate of other operations or slower. Returns the shift too.
    """
    shift: tl.constexpr = 4 * K if K < HIGH else 4 * K - 12
    bits = words if K < HIGH else words >> 12
    magic = (bits & (15 << shift)) | 0x4B000000
    return magic.to(tl.float32, bitcast=True) - (8388608.0 + 8.0 * (1 << shift))


@triton.jit
def _unscaled(x, K: tl.constexpr):
    """X with the shift of the K-th nibble taken out."""
    shift: tl.constexpr = 4 * K if K < HIGH else 4 * K - 12
    return x * (1.0 / (1 << shift))


@triton.jit
def _dot_of(part, scale):
    """The sum of (pieces, 4) float32 parts, each piece under its scale."""
    return tl.sum(tl.sum(part, 1) * scale.to(tl.float32), 0)


@triton.jit
def int4_vector_product_kernel(
    x_ptr,
    packed_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Out (ROWS) = int4 weight (ROWS, COLUMNS) @ x (COLUMNS), four rows a program.

    PIECES pieces of 32 columns at a time; a piece is four words, half of those that share a scale.
    The four rows are written out, not a dimension of the tile: x then has the layout of the words,
    and nothing has to change places between threads.
    """
    row = tl.program_id(0).to(tl.int64) * 4
    row_a = tl.minimum(row, ROWS - 1)  # those past the end are the last row again
    row_b = tl.minimum(row + 1, ROWS - 1)
    row_c = tl.minimum(row + 2, ROWS - 1)
    row_d = tl.minimum(row + 3, ROWS - 1)
    piece = tl.arange(0, PIECES)
    word = tl.arange(0, 4)
    at = packed_ptr + piece[:, None] * 4 + word[None, :]
    scales_at = scales_ptr + piece // 2
    x_at = x_ptr + piece[:, None] * 32 + word[None, :]
    out_a, out_b, out_c, out_d = 0.0, 0.0, 0.0, 0.0
    for start in range(0, COLUMNS // 32, PIECES):
        inside = start + piece < COLUMNS // 32
        some = inside[:, None]
        words_a = tl.load(at + row_a * (COLUMNS // 8) + start * 4, mask=some, other=0)
        words_b = tl.load(at + row_b * (COLUMNS // 8) + start * 4, mask=some, other=0)
        words_c = tl.load(at + row_c * (COLUMNS // 8) + start * 4, mask=some, other=0)
        words_d = tl.load(at + row_d * (COLUMNS // 8) + start * 4, mask=some, other=0)
        scale_a = tl.load(scales_at + row_a * (COLUMNS // 64) + start // 2, mask=inside, other=0.0)
        scale_b = tl.load(scales_at + row_b * (COLUMNS // 64) + start // 2, mask=inside, other=0.0)
        scale_c = tl.load(scales_at + row_c * (COLUMNS // 64) + start // 2, mask=inside, other=0.0)
        scale_d = tl.load(scales_at + row_d * (COLUMNS // 64) + start // 2, mask=inside, other=0.0)
        part_a = tl.zeros((PIECES, 4), tl.float32)
        part_b = tl.zeros((PIECES, 4), tl.float32)
        part_c = tl.zeros((PIECES, 4), tl.float32)
        part_d = tl.zeros((PIECES, 4), tl.float32)
        for k in tl.static_range(8):
            x = tl.load(x_at + start * 32 + 4 * k, mask=some, other=0.0)
            x = _unscaled(x.to(tl.float32), k)
            part_a += _weights_of(words_a, k) * x
            part_b += _weights_of(words_b, k) * x
            part_c += _weights_of(words_c, k) * x
            part_d += _weights_of(words_d, k) * x
        out_a += _dot_of(part_a, scale_a)
        out_b += _dot_of(part_b, scale_b)
        out_c += _dot_of(part_c, scale_c)
        out_d += _dot_of(part_d, scale_d)
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


@triton.jit
def int4_product_kernel(
    x_ptr,
    packed_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    count,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    SPLITS: tl.constexpr,
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
    scales_at = scales_ptr + rows.to(tl.int64)[:, None] * (COLUMNS // 64) + word[None, :] // 8
    x_at = x_ptr + token.to(tl.int64)[None, :] * COLUMNS + word[:, None]
    summed = tl.zeros((BLOCK_ROWS, TOKENS), tl.float32)
    part = tl.program_id(2)
    for start in range(part * WORDS, COLUMNS // 8, SPLITS * WORDS):
        inside = start + word < COLUMNS // 8
        both = rows_inside[:, None] & inside[None, :]
        words = tl.load(at + start, mask=both, other=0)
        scale = tl.load(scales_at + start // 8, mask=both, other=0.0).to(tl.float32)
        for k in tl.static_range(8):
            x = tl.load(
                x_at + start + k * (COLUMNS // 8),
                mask=inside[:, None] & tokens_inside[None, :],
                other=0.0,
            )
            weights = (_weights_of(words, k) * _unscaled(scale, k)).to(kind)
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
def int4_widen_kernel(packed_ptr, scales_ptr, out_ptr, COLUMNS: tl.constexpr, WORDS: tl.constexpr):
    """The weights themselves, in the type of out (rows, COLUMNS): for products of many rows."""
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    inside = word < COLUMNS // 8
    words = tl.load(packed_ptr + row * (COLUMNS // 8) + word, mask=inside, other=0)
    scale = tl.load(scales_ptr + row * (COLUMNS // 64) + word // 8, mask=inside, other=0.0)
    column = word // 4 * 32 + word % 4
    for k in tl.static_range(8):
        weights = _weights_of(words, k) * _unscaled(scale.to(tl.float32), k)
        place = out_ptr + row * COLUMNS + column + 4 * k
        tl.store(place, weights.to(out_ptr.dtype.element_ty), mask=inside)
