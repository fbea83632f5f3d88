"""Checks of FP8 over whole models: a device's products against the reference, and its rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import Fp8

if TYPE_CHECKING:
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.weights import LayerWeights, Weights

_TOKEN_COUNTS: Final = (16, 80)
"""Tokens of the products that are compared: few and many run different kernels."""


def product_error(ops: Ops, weights: Weights, kind: torch.dtype) -> float:
    """Return how far the device's products with random tokens are from the reference's.

    The relative error (difference over norm) of the worst output row of the worst matrix. Each
    matrix is checked by itself: one layer's rounding would change the inputs of all that follow.
    """
    device = weights.norm.device
    generator = torch.Generator(device).manual_seed(0)
    errors = [torch.zeros((), device=device)]
    for layer in weights.layers:
        for linear in (matrix for matrix in _matrices(layer) if isinstance(matrix, Fp8)):
            for count in _TOKEN_COUNTS:
                size = (count, linear.weight.shape[1])
                x = torch.randn(size, generator=generator, device=device, dtype=kind)
                expected = fp8.product(x, linear).float()
                error = _row_norms(ops.product(x, linear).float() - expected)
                errors.append((error / _row_norms(expected).clamp(min=fp8.LEAST)).amax())
    return torch.stack(errors).amax().item()


def _row_norms(outputs: torch.Tensor) -> torch.Tensor:
    """The norm of each row's outputs, (T, rows) -> (rows,)."""
    return outputs.square().sum(dim=0).sqrt()


def _matrices(layer: LayerWeights) -> tuple[Linear, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down


def round_inputs(module: Any, weights: Weights) -> None:
    """Make a Transformers module round the inputs of those products that are in FP8.

    If its weights are the dequantised matrices, its results are then the reference for them.
    """
    for layer, quantized in zip(module.model.layers, weights.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        groups = (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        for linear, parts in zip(_matrices(quantized), groups, strict=True):
            for part in parts if isinstance(linear, Fp8) else ():
                part.register_forward_pre_hook(_rounded)


def _rounded(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The input of a product, rounded to e4m3."""
    del module
    (x,) = inputs
    values, scales = fp8.round_rows(x.flatten(0, -2))
    return ((values.float() * scales[:, None]).to(x.dtype).view_as(x),)
