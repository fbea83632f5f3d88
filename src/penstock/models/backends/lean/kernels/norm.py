# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Root-mean-square norm, alone or with the residual sum before it; SwiGLU's product."""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.fp8 import store_rounded
from penstock.models.backends.lean.kernels.int4_vector import store_sorted
from penstock.models.backends.lean.kernels.overlap import follow

PLAIN: tl.constexpr = tl.constexpr(0)
ROUNDED: tl.constexpr = tl.constexpr(1)
SORTED: tl.constexpr = tl.constexpr(2)
"""What a row becomes: itself, e4m3, or sorted as a product with int4 takes it."""


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
        store_sorted(x.to(tl.float32), first, out_ptr, SIZE, WIDTH)


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
def silu_product_kernel(
    gate_up_ptr,
    out_ptr,
    scales_ptr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    INTO: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Out = silu(gate) * up; a row of gate_up is [gate, up]. For ROUNDED, WIDTH is a whole row."""
    follow(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * WIDTH
    columns = first + tl.arange(0, WIDTH)
    inside = columns < SIZE
    gate = tl.load(gate_up_ptr + row * 2 * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * SIZE + SIZE + columns, mask=inside, other=0.0)
    kind = gate_up_ptr.dtype.element_ty
    active = (gate / (1.0 + tl.exp(-gate))).to(kind)
    product = active.to(tl.float32) * up.to(tl.float32)
    _store(product, kind, row, first, out_ptr, scales_ptr, SIZE, WIDTH, INTO)
