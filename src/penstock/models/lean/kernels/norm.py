# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Root-mean-square norm, alone or with the residual sum before it; SwiGLU's product."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    x_stride,
    epsilon,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
):
    """One row a program. With ADDS the residual stream takes up x, and its sum is normed."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < SIZE
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        residual = residual_ptr + row * SIZE + columns
        x += tl.load(residual, mask=inside, other=0.0).to(tl.float32)
        x = x.to(out_ptr.dtype.element_ty)  # the stream is kept, and normed, in the model's type
        tl.store(residual, x, mask=inside)
        x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / SIZE + epsilon)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    normed = (x * scale).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(
        out_ptr + row * SIZE + columns,
        (normed * weight).to(out_ptr.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def silu_product_kernel(gate_up_ptr, out_ptr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Out = silu(gate) * up; a row of gate_up is [gate, up]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < SIZE
    gate = tl.load(gate_up_ptr + row * 2 * SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * SIZE + SIZE + columns, mask=inside, other=0.0)
    active = (gate / (1.0 + tl.exp(-gate))).to(out_ptr.dtype.element_ty)
    product = active.to(tl.float32) * up.to(tl.float32)
    tl.store(out_ptr + row * SIZE + columns, product.to(out_ptr.dtype.element_ty), mask=inside)
