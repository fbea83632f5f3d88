"""One pass of a step's tokens through all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from penstock.models.architecture.description import dense_part
from penstock.models.backends.lean.operations.ops import Between
from penstock.models.backends.lean.products.linear import take_alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.backends.lean.adapters import StepAdapters
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.joined import Which
    from penstock.models.backends.lean.operations.ops import Activations, AttentionLayer, Ops
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.ranks import Ranks
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import Norm, Weights


@dataclass(frozen=True, slots=True)
class Forward:
    """What a pass needs beside its step; with `adapters`, activations stay in the model's type."""

    shape: Shape
    weights: Weights
    attention: Sequence[AttentionLayer]
    ops: Ops
    ranks: Ranks
    adapters: StepAdapters | None = None

    def run(self, step: Step, images: Sequence[tuple[slice, torch.Tensor]] = ()) -> torch.Tensor:
        """Return the last hidden states, (T, hidden), in the model's type.

        `images` are rows of the step, and embeddings in place of those of their ids.
        """
        ops, layers = self.ops, self.weights.layers
        residual = ops.embed(step, self.weights.embeddings)
        if self.shape.model.embedding_scale != 1:
            residual *= _rounded(self.shape.model.embedding_scale, residual.dtype)
        for rows, embeddings in images:
            residual[rows] = embeddings.to(residual)
        x = self._normed(residual, layers[0].norm, self._first(0))
        for index, layer in enumerate(layers):
            form, attention = self.shape.model.layers[index], self.attention[index]
            qkv = self._product(index, "qkv", x, layer.qkv)
            ops.rotate(qkv, step, attention)
            attended = ops.attend(qkv, step, attention)
            out, scale = self._product(index, "out", attended, layer.out), form.residual_scale
            if form.parallel:
                out += self._mlp(index, x, step)
            else:
                into = None if layer.experts is not None else self._into(layer.gate_up)
                between = Between(layer.out_norm, scale, layer.second_norm)
                x = self._added(out, residual, between, into)
                out = self._mlp(index, x, step)
            last = index + 1 == len(layers)
            norm = self.weights.norm if last else layers[index + 1].norm
            into = None if last else self._first(index + 1)
            between = Between(layer.mlp_out_norm, scale, norm)
            x = self._added(out, residual, between, into)
        assert isinstance(x, torch.Tensor)  # noqa: S101 - it is for no particular product
        return x

    def _mlp(self, index: int, x: Activations, step: Step) -> torch.Tensor:
        """A layer's MLP, its experts, or both."""
        layer, mlp = self.weights.layers[index], self.shape.model.layers[index].mlp
        dense, out = dense_part(mlp), None
        if dense is not None and layer.gate_up is not None and layer.down is not None:
            gate_up = self._product(index, "gate_up", x, layer.gate_up)
            into, has_gate = self._into(layer.down), dense.gate is not None
            gated = self.ops.gated(gate_up, into, dense.activation, has_gate=has_gate)
            out = self._product(index, "down", gated, layer.down)
        if layer.experts is not None:
            assert isinstance(x, torch.Tensor)  # noqa: S101 - its norm is for no particular product
            return self.ops.experts(x, step, layer.experts, out)
        assert out is not None  # noqa: S101 - there is one or the other
        return out

    def _first(self, index: int) -> Linear | None:
        """The matrix that a layer's input is made for; None if it is for two of different formats."""
        layer = self.weights.layers[index]
        beside = layer.gate_up if self.shape.model.layers[index].parallel else layer.qkv
        alike = beside is layer.qkv or (beside is not None and take_alike(beside, layer.qkv))
        return self._into(layer.qkv) if alike else None

    def _into(self, linear: Linear | None) -> Linear | None:
        return None if self.adapters is not None else linear

    def _product(self, index: int, which: Which, x: Activations, linear: Linear) -> torch.Tensor:
        product = self.ops.product(x, linear)
        return product if self.adapters is None else self.adapters.add(index, which, x, product)

    def _normed(
        self, residual: torch.Tensor, norm: Norm | None, into: Linear | None
    ) -> Activations:
        if norm is not None and norm.is_plain:
            return self.ops.norm(residual, norm.weight, norm.epsilon, into)
        return self.ops.merge(None, residual, Between(None, 1.0, norm), into)

    def _added(
        self, x: torch.Tensor, residual: torch.Tensor, between: Between, into: Linear | None
    ) -> Activations:
        """Add a product to the residual stream, and norm the sum."""
        norm = between.before
        if norm is not None and between.is_plain:
            return self.ranks.add_norm(self.ops, x, residual, norm.weight, norm.epsilon, into=into)
        return self.ops.merge(x, residual, between, into)


def _rounded(value: float, kind: torch.dtype) -> float:
    """A factor as a module has it, in its own type."""
    return float(torch.tensor(value).to(kind))
