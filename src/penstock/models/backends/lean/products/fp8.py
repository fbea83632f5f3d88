"""FP8: matrices in e4m3 with a scale a row, met by activations in e4m3 with a scale a token.

A token's scale is that of its own row, whatever else is in a batch: it is rounded alike alone and
among others. Embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.backends.lean.products.linear import Dense, Fp8

if TYPE_CHECKING:
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.weights import LayerWeights, Weights

E4M3: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0
"""Of e4m3: what a row's largest value becomes."""

LEAST: Final = 1e-30
"""A row's largest value is taken for no less, so that a row of zeros has a scale."""

ALIGNED: Final = 16
"""Matrix units take rows and columns by so many."""

_TRIED: Final = (16, 80)
"""Tokens of products that are compared: few and many are other kernels."""


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


def product(x: torch.Tensor, linear: Fp8) -> torch.Tensor:
    """(T, columns) times a matrix -> (T, rows), by torch's float32: the reference."""
    values, scales = round_rows(x)
    summed = torch.nn.functional.linear(values.float(), linear.weight.float())
    out = summed * scales[:, None] * linear.scales
    return (out if linear.bias is None else out + linear.bias.float()).to(x.dtype)


def product_error(ops: Ops, weights: Weights, kind: torch.dtype) -> float:
    """How far the device's products with these matrices are from `product`, of tokens drawn at random.

    Relative, of the worst row of the worst matrix: what a row's outputs differ by, over what they
    are. A matrix by itself, as roundings that differ in one layer are others in all that follow.
    """
    place = weights.norm.device
    generator = torch.Generator(place).manual_seed(0)
    errors = [torch.zeros((), device=place)]
    for layer in weights.layers:
        for linear in (one for one in _matrices(layer) if isinstance(one, Fp8)):
            for count in _TRIED:
                size = (count, linear.weight.shape[1])
                x = torch.randn(size, generator=generator, device=place, dtype=kind)
                wanted = product(x, linear).float()
                off = _sizes(ops.product(x, linear).float() - wanted)
                errors.append((off / _sizes(wanted).clamp(min=LEAST)).amax())
    return torch.stack(errors).amax().item()


def _sizes(outputs: torch.Tensor) -> torch.Tensor:
    """Of each row's outputs, (T, rows) -> (rows,)."""
    return outputs.square().sum(dim=0).sqrt()


def _matrices(layer: LayerWeights) -> tuple[Linear, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down


def round_inputs(module: Any, weights: Weights) -> None:
    """Have a module of Transformers round what its products are given, where these are in FP8.

    With weights that the matrices stand for, what it computes is then the matrices' reference.
    """
    for layer, held in zip(module.model.layers, weights.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        groups = (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        for linear, parts in zip(_matrices(held), groups, strict=True):
            for part in parts if isinstance(linear, Fp8) else ():
                part.register_forward_pre_hook(_rounded)


def _rounded(module: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The input of a product as e4m3 has it."""
    del module
    (x,) = given
    values, scales = round_rows(x.flatten(0, -2))
    return ((values.float() * scales[:, None]).to(x.dtype).view_as(x),)
