"""Checks of FP8 over whole models: a device's products against the reference, and its rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.backends.lean import joined
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import Fp8
from penstock.models.backends.lean.weights import matrices

if TYPE_CHECKING:
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import Weights

_TOKEN_COUNTS: Final = (16, 80)
"""Tokens of the products that are compared: few and many run different kernels."""


def product_error(ops: Ops, weights: Weights, kind: torch.dtype) -> float:
    """Return how far the device's products with random tokens are from the reference's.

    The relative error (difference over norm) of the worst output row of the worst matrix. Each
    matrix is checked by itself: one layer's rounding would change the inputs of all that follow.
    """
    device = weights.embeddings.device
    generator = torch.Generator(device).manual_seed(0)
    errors = [torch.zeros((), device=device)]
    for layer in weights.layers:
        for linear in (one for _, one in matrices(layer) if isinstance(one, Fp8)):
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


def round_inputs(module: Any, weights: Weights, shape: Shape) -> None:
    """Make a Transformers module round the inputs of those products that are in FP8.

    If its weights are the dequantised matrices, its results are then the reference for them.
    """
    for layer, quantized in zip(shape.model.layers, weights.layers, strict=True):
        held = dict(matrices(quantized))
        for one in joined.of_layer(layer, shape.sizes.hidden_size):
            for name, _ in one.matrices if isinstance(held[one.which], Fp8) else ():
                module.get_submodule(name).register_forward_pre_hook(_rounded)


def _rounded(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The input of a product, rounded to e4m3."""
    del module
    (x,) = inputs
    values, scales = fp8.round_rows(x.flatten(0, -2))
    return ((values.float() * scales[:, None]).to(x.dtype).view_as(x),)
