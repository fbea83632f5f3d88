# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Norms of rows, alone or with the residual sum before them; an MLP's gate."""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.activations import activated
from penstock.models.backends.lean.kernels.fp8 import store_rounded
from penstock.models.backends.lean.kernels.int4_vector import store_sorted
from penstock.models.backends.lean.kernels.overlap import follow

PLAIN: tl.constexpr = tl.constexpr(0)
ROUNDED: tl.constexpr = tl.constexpr(1)
SORTED: tl.constexpr = tl.constexpr(2)
SORTED_BY_32: tl.constexpr = tl.constexpr(3)
"""What a row becomes: itself, e4m3, or sorted as a product with int4 in blocks of 64 or 32 takes it."""

NO_NORM: tl.constexpr = tl.constexpr(0)
RMS: tl.constexpr = tl.constexpr(1)
CENTRED: tl.constexpr = tl.constexpr(2)
"""Kinds of norms: by the root of the mean square, of a row as it is or without its mean."""


@triton.jit
def _store(
    x,
    kind: tl.constexpr,
    row,
    first,
    out_ptr,
    scales_ptr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    INTO: tl.constexpr,
):
    """Store a float32 row's values in `kind`, from column `first` on, in the form of INTO."""
    x = x.to(kind)
    columns = first + tl.arange(0, WIDTH)
    if INTO == PLAIN:
        tl.store(out_ptr + row * SIZE + columns, x, mask=columns < SIZE)
    elif INTO == ROUNDED:
        store_rounded(x.to(tl.float32), row, columns, out_ptr, scales_ptr, SIZE)
    else:
        store_sorted(x.to(tl.float32), first, out_ptr, SIZE, WIDTH, 64 if INTO == SORTED else 32)


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    scales_ptr,
    x_stride,
    epsilon,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
    INTO: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """One row a program. With ADDS the residual stream takes up x, and its sum is normed."""
    row = tl.program_id(0).to(tl.int64)
    kind = residual_ptr.dtype.element_ty
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    follow(OVERLAPS)
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        residual = residual_ptr + row * SIZE + columns
        x += tl.load(residual, mask=inside, other=0.0).to(tl.float32)
        x = x.to(kind)  # the stream is kept, and normed, in the model's type
        tl.store(residual, x, mask=inside)
        x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / SIZE + epsilon)
    normed = (x * scale).to(kind).to(tl.float32)
    _store(normed * weight, kind, row, 0, out_ptr, scales_ptr, SIZE, WIDTH, INTO)


@triton.jit
def gated_kernel(
    gate_up_ptr,
    out_ptr,
    scales_ptr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    INTO: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out = activation(gate) * up; a row of gate_up is [gate, up], or without GATED, [up].

    For ROUNDED, WIDTH is a whole row.
    """
    follow(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * WIDTH
    columns = first + tl.arange(0, WIDTH)
    inside = columns < SIZE
    kind = gate_up_ptr.dtype.element_ty
    if GATED:
        start = gate_up_ptr + row * 2 * SIZE + columns
        gate = tl.load(start, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(start + SIZE, mask=inside, other=0.0)
        active = activated(gate, ACTIVATION).to(kind)
        product = active.to(tl.float32) * up.to(tl.float32)
    else:
        up = tl.load(gate_up_ptr + row * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
        product = activated(up, ACTIVATION)
    _store(product, kind, row, first, out_ptr, scales_ptr, SIZE, WIDTH, INTO)


@triton.jit
def _normed(
    x,
    columns,
    inside,
    weight_ptr,
    bias_ptr,
    epsilon,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    BIASED: tl.constexpr,
):
    """A float32 row's norm; `KIND` is of `NO_NORM`, `RMS` and `CENTRED`."""
    if KIND == CENTRED:
        x = tl.where(inside, x - tl.sum(x, 0) / SIZE, 0.0)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    x = x * (1.0 / tl.sqrt(tl.sum(x * x, 0) / SIZE + epsilon)) * weight
    if BIASED:
        x += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
def merge_kernel(
    x_ptr,
    residual_ptr,
    after_ptr,
    after_bias_ptr,
    before_ptr,
    before_bias_ptr,
    out_ptr,
    scales_ptr,
    x_stride,
    after_epsilon,
    before_epsilon,
    scale,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
    AFTER: tl.constexpr,
    AFTER_BIASED: tl.constexpr,
    BEFORE: tl.constexpr,
    BEFORE_BIASED: tl.constexpr,
    INTO: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """The residual stream takes up `scale` times the norm AFTER of x, and its sum is normed by BEFORE."""
    row = tl.program_id(0).to(tl.int64)
    kind = residual_ptr.dtype.element_ty
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    residual_at = residual_ptr + row * SIZE + columns
    follow(OVERLAPS)
    stream = tl.load(residual_at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
        if AFTER != NO_NORM:
            x = _normed(
                x,
                columns,
                inside,
                after_ptr,
                after_bias_ptr,
                after_epsilon,
                SIZE,
                AFTER,
                AFTER_BIASED,
            )
            x = x.to(kind).to(tl.float32)
        stream = (stream + x * scale).to(kind)  # it is kept, and normed, in the model's type
        tl.store(residual_at, stream, mask=inside)
        stream = stream.to(tl.float32)
    if BEFORE != NO_NORM:
        normed = _normed(
            stream,
            columns,
            inside,
            before_ptr,
            before_bias_ptr,
            before_epsilon,
            SIZE,
            BEFORE,
            BEFORE_BIASED,
        )
        _store(normed, kind, row, 0, out_ptr, scales_ptr, SIZE, WIDTH, INTO)


@triton.jit
def head_norm_kernel(
    x_ptr,
    weight_ptr,
    x_stride,
    weight_stride,
    epsilon,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Norm a token's head in place; the grid is (tokens, heads), a head's values are SIZE neighbours."""
    head = tl.program_id(1)
    at = x_ptr + tl.program_id(0).to(tl.int64) * x_stride + head * SIZE
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    follow(OVERLAPS)
    x = tl.load(at + columns, mask=inside, other=0.0).to(tl.float32)
    weight_at = weight_ptr + head * weight_stride
    x = _normed(x, columns, inside, weight_at, weight_at, epsilon, SIZE, KIND, False)
    tl.store(at + columns, x.to(x_ptr.dtype.element_ty), mask=inside)
