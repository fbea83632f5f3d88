# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""A tile of a product: some rows of x times some rows of a matrix, in any format that has one.

A FORM's weights are computed to the type of x without their scale, which is exact in 16 bits; a group's
sums are multiplied by its scale, in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.unpacking import E2M1, FP8, PLAIN, bytes_of, codes_of


@triton.jit
def _plain_product(
    x_at,
    weight_at,
    real,
    inside,
    COLUMNS: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    out = tl.zeros((COUNT, ROWS), tl.float32)
    column = tl.arange(0, BLOCK_COLUMNS)
    x_tile = x_at[:, None] + column[None, :]
    tile = weight_at[None, :] + column[:, None] * COLUMN_STRIDE
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        within = start + column < COLUMNS
        x = tl.load(x_tile + start, mask=real[:, None] & within[None, :], other=0.0)
        mask = within[:, None] & inside[None, :]
        weight = tl.load(tile + start * COLUMN_STRIDE, mask=mask, other=0.0)
        out = tl.dot(x, weight, out, input_precision=PRECISION)
    return out


@triton.jit
def _fp8_product(
    x_at,
    weight_at,
    scales_at,
    real,
    inside,
    COLUMNS: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
):
    """(ROWS, COUNT). The next step's scales are read ahead."""
    kind = x_at.dtype.element_ty
    summed = tl.zeros((ROWS, COUNT), tl.float32)
    column = tl.arange(0, BLOCK_COLUMNS)
    x_tile = x_at[None, :] + column[:, None]
    tile = weight_at[:, None] + column[None, :]
    scale = tl.load(scales_at, mask=inside, other=0.0)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        after = start + BLOCK_COLUMNS
        next_scale = tl.load(scales_at + after // GROUP, mask=inside & (after < COLUMNS), other=0.0)
        within = start + column < COLUMNS
        weight = tl.load(tile + start, mask=inside[:, None] & within[None, :], other=0.0)
        x = tl.load(x_tile + start, mask=within[:, None] & real[None, :], other=0.0)
        part = tl.dot(bytes_of(weight, kind, FAST), x, input_precision=PRECISION)
        summed += part * scale[:, None]
        scale = next_scale
    return summed


@triton.jit
def _codes_product(
    x_at,
    weight_at,
    scales_at,
    zeros_at,
    real,
    inside,
    COLUMNS: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
):
    """(ROWS, COUNT). The next group's scales and zeros are read ahead.

    Of every 64 columns a word of 16 bits has four, 16 apart.
    """
    kind = x_at.dtype.element_ty
    step: tl.constexpr = GROUP if GROUP > 64 else 64  # noqa: FURB136, PLR2004 - packed together, or a group
    groups: tl.constexpr = COLUMNS // GROUP
    together: tl.constexpr = BLOCK_COLUMNS // step
    summed = tl.zeros((ROWS, COUNT), tl.float32)
    word = tl.arange(0, step // 4)
    x_tile = x_at[None, :] + (word // 16 * 64 + word % 16)[:, None]
    tile = weight_at[:, None] + word[None, :]
    scale = tl.load(scales_at, mask=inside, other=0.0).to(tl.float32)
    zero = tl.zeros((ROWS,), tl.float32)
    if ZEROED:
        zero = tl.load(zeros_at, mask=inside, other=0).to(tl.float32)
    for start in range(0, COLUMNS // step, together):
        for own in tl.static_range(together):
            here = (start + own) * step < COLUMNS
            words = tl.load(
                tile + (start + own) * (step // 4), mask=(inside & here)[:, None], other=0
            )
            x_here = x_tile + (start + own) * step
            some = (real & here)[None, :]
            for part_of in tl.static_range(step // GROUP):
                group = (start + own) * (step // GROUP) + part_of
                there = inside & (group + 1 < groups)
                next_scale = tl.load(scales_at + group + 1, mask=there, other=0.0).to(tl.float32)
                next_zero = zero
                if ZEROED:
                    next_zero = tl.load(zeros_at + group + 1, mask=there, other=0).to(tl.float32)
                part = tl.zeros((ROWS, COUNT), tl.float32)
                for k in tl.static_range(4 * GROUP // step):
                    x_at_k = x_here + (part_of * (4 * GROUP // step) + k) * 16
                    x = tl.load(x_at_k, mask=some, other=0.0)
                    numbers = codes_of(
                        words, zero, part_of * (4 * GROUP // step) + k, FORM, kind, FAST
                    )
                    part = tl.dot(numbers, x, part, input_precision=PRECISION)
                summed += part * scale[:, None]
                scale, zero = next_scale, next_zero
    if FORM == E2M1:
        summed *= 0.5
    return summed


@triton.jit
def tile_product(
    x_at,
    weight_at,
    scales_at,
    zeros_at,
    real,
    inside,
    COLUMNS: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    ZEROED: tl.constexpr,
    PRECISION: tl.constexpr,
    FAST: tl.constexpr,
):
    """(COUNT, ROWS) float32: COUNT rows of x, (COLUMNS), times ROWS of a matrix.

    `x_at` are where rows of x begin, `real` (COUNT,) which count; `weight_at`, `scales_at` and
    `zeros_at` where those of the matrix do, `inside` (ROWS,) likewise. BLOCK_COLUMNS divide a GROUP of
    FP8, and are one or several of codes of 4 bit, whose `weight_at` are words. But for PLAIN products
    are taken transposed, so that weights are the matrix units' first operand, which may stay in
    registers. FAST: NVIDIA's instructions from Hopper on unpack codes.
    """
    if FORM == PLAIN:
        out = _plain_product(
            x_at,
            weight_at,
            real,
            inside,
            COLUMNS,
            COLUMN_STRIDE,
            COUNT,
            ROWS,
            BLOCK_COLUMNS,
            PRECISION,
        )
    elif FORM == FP8:
        summed = _fp8_product(
            x_at,
            weight_at,
            scales_at,
            real,
            inside,
            COLUMNS,
            COUNT,
            ROWS,
            BLOCK_COLUMNS,
            GROUP,
            PRECISION,
            FAST,
        )
        out = tl.trans(summed)
    else:
        summed = _codes_product(
            x_at,
            weight_at,
            scales_at,
            zeros_at,
            real,
            inside,
            COLUMNS,
            COUNT,
            ROWS,
            BLOCK_COLUMNS,
            FORM,
            GROUP,
            ZEROED,
            PRECISION,
            FAST,
        )
        out = tl.trans(summed)
    return out
