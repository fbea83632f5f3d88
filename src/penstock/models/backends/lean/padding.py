"""Heads of any size: their projections, for heads that end in zeros up to a power of two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from penstock.models.backends.lean.products.linear import Dense, Fp8, Fp8Blocks, Int4
from penstock.models.backends.lean.weights import Weights

if TYPE_CHECKING:
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import LayerWeights


def padded(weights: Weights, shape: Shape) -> Weights:
    """The same with padded projections; the very same if the shape is not padded."""
    if not shape.is_padded:
        return weights
    pad = _Pad(shape.model.layers[0].attention.head_size, shape.sizes.head_size)
    return Weights(
        weights.embeddings,
        [pad.layer(layer) for layer in weights.layers],
        weights.norm,
        weights.head,
    )


@dataclass(frozen=True, slots=True)
class _Pad:
    size: int
    whole: int

    def layer(self, layer: LayerWeights) -> LayerWeights:
        return replace(layer, qkv=self._outputs(layer.qkv), out=self._inputs(layer.out))

    def _outputs(self, linear: Linear) -> Linear:
        """A matrix whose rows are those of heads: zeros come between them."""
        of = self._rows
        bias = None if linear.bias is None else of(linear.bias)
        if isinstance(linear, Dense):
            return Dense(of(linear.weight), bias)
        if isinstance(linear, Int4):
            zeros = None if linear.zeros is None else of(linear.zeros)
            packed, scales = of(linear.packed), of(linear.scales)
            return replace(linear, packed=packed, scales=scales, bias=bias, zeros=zeros)
        return replace(linear, weight=of(linear.weight), scales=of(linear.scales), bias=bias)

    def _inputs(self, linear: Linear) -> Linear:
        """A matrix that reads heads, of which the last elements are nothing to it."""
        if isinstance(linear, Int4):
            columns = linear.shape[1]
            places = torch.arange(columns, dtype=torch.int32, device=linear.packed.device)
            places = places if linear.order is None else linear.order
            order = places // self.size * self.whole + places % self.size
            return replace(linear, order=order, inputs=columns // self.size * self.whole)
        assert isinstance(linear, Dense | Fp8)  # noqa: S101 - groups of columns are not cut
        weight = self._rows(linear.weight.T).T.contiguous()
        return replace(linear, weight=weight)

    def _rows(self, rows: torch.Tensor) -> torch.Tensor:
        if rows.dtype.itemsize == 1:
            return self._spread(rows.view(torch.uint8)).view(rows.dtype)
        return self._spread(rows)

    def _spread(self, rows: torch.Tensor) -> torch.Tensor:
        by_head = rows.reshape(-1, self.size, *rows.shape[1:])
        zeros = rows.new_zeros((len(by_head), self.whole - self.size, *rows.shape[1:]))
        return torch.cat((by_head, zeros), dim=1).flatten(0, 1)


def is_cut(linear: Linear) -> bool:
    """Whether a matrix has groups of columns that padding would cut."""
    return isinstance(linear, Fp8Blocks)
