# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Activations of MLPs, and the hyperbolic tangent that soft caps take too."""

from __future__ import annotations

import triton
import triton.language as tl

SILU: tl.constexpr = tl.constexpr(0)
GELU: tl.constexpr = tl.constexpr(1)
GELU_TANH: tl.constexpr = tl.constexpr(2)
RELU: tl.constexpr = tl.constexpr(3)
RELU2: tl.constexpr = tl.constexpr(4)
CLAMPED: tl.constexpr = tl.constexpr(5)

NUMBERS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4}
"""The kernels' numbers of described activations."""

ROOT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
ROOT_8_OVER_PI: tl.constexpr = tl.constexpr(1.5957691216057308)
"""Twice the root of 2 / pi."""


@triton.jit
def tanh(x):
    """Of float32."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation of float32 values."""
    if ACTIVATION == SILU:
        return x / (1.0 + tl.exp(-x))
    if ACTIVATION == GELU:
        return 0.5 * x * (1.0 + tl.math.erf(x * ROOT_HALF))
    if ACTIVATION == GELU_TANH:
        cubic = (x + 0.044715 * x * x * x) * ROOT_8_OVER_PI
        return x / (1.0 + tl.exp(-cubic))
    if ACTIVATION == RELU:
        return tl.maximum(x, 0.0)
    positive = tl.maximum(x, 0.0)
    return positive * positive
