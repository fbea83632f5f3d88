"""FP8: matrices in e4m3 with a scale a row, met by activations in e4m3 with a scale a token.

A token's scale is that of its own row, whatever else is in a batch: it is rounded alike alone and
among others. Embeddings, norms and the head stay as they are. Experts have a scale for 128 columns of
a row, and their activations are not rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from penstock.models.backends.lean.products.linear import FP8_GROUP, Dense, Fp8, Fp8Blocks

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Linear, Matrices

E4M3: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0
"""Of e4m3: what a row's largest value becomes."""

LEAST: Final = 1e-30
"""A row's largest value is taken for no less, so that a row of zeros has a scale."""

ALIGNED: Final = 16
"""Matrix units take rows and columns by so many."""


def round_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns) in e4m3, and the scales (rows,) float32 that give x back."""
    wide = x.float()
    peaks = wide.abs().amax(dim=1).clamp(min=LEAST)
    return (wide * (LARGEST / peaks)[:, None]).to(E4M3), peaks / LARGEST


def hold(dense: Dense, device: torch.device, kind: torch.dtype) -> Linear:
    """A matrix on `device` in FP8; one that the matrix units do not take is held in `kind`."""
    rows, columns = dense.weight.shape
    bias = None if dense.bias is None else dense.bias.to(device, kind)
    weight = dense.weight.to(device)
    if rows % ALIGNED or columns % ALIGNED:
        return Dense(weight.to(kind), bias)
    return Fp8(*round_rows(weight), bias)


def hold_experts(weights: torch.Tensor, device: torch.device, kind: torch.dtype) -> Matrices:
    """All experts' matrices (experts, rows, columns) on `device` in FP8."""
    del kind
    count, rows, columns = weights.shape
    groups = -(-columns // FP8_GROUP)
    codes = torch.empty(weights.shape, dtype=E4M3, device=device)
    scales = torch.empty((count, rows, groups), dtype=torch.float32, device=device)
    for number in range(count):  # so that no more than one is held in float32
        padded = functional.pad(weights[number].to(device), (0, groups * FP8_GROUP - columns))
        values, own = round_rows(padded.reshape(rows * groups, FP8_GROUP))
        codes[number] = values.view(rows, -1)[:, :columns]
        scales[number] = own.view(rows, groups)
    return Fp8Blocks(codes, scales, None)


def product(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
    """(T, columns) times a matrix -> (T, rows), by torch's float32: the reference."""
    values, scales = round_rows(x)
    summed = functional.linear(values.float(), linear.weight.float())
    out = summed * scales[:, None] * linear.scales
    return (out if linear.bias is None else out + linear.bias.float()).to(x.dtype)
