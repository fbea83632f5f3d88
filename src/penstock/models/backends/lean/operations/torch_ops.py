"""The lean decoder's operations by torch alone: the reference, and the way on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from penstock.models.backends.lean.operations import torch_experts
from penstock.models.backends.lean.operations.torch_attention import TorchAttention
from penstock.models.backends.lean.operations.torch_experts import ACTIVATIONS
from penstock.models.backends.lean.operations.torch_rows import norm
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import Dense, Fp8
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.architecture.elements import Activation
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import (
        Activations,
        Attention,
        AttentionLayer,
        Between,
    )
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.weights import ExpertWeights, Norm


_POINT: Final = float(1 << 40)
"""Weights are drawn by as whole numbers, of 40 bits after the point: sums of these are exact."""

_WHOLE: Final = (1 << 31) - 1
"""top_p that keeps all."""


class TorchOps:
    """See `penstock.models.backends.lean.operations.ops.Ops`; `rotate` and `attend` take steps without padding."""

    def __init__(self, attention: Attention | None = None) -> None:
        self._attention = attention or TorchAttention()

    def embed(self, step: Step, embeddings: torch.Tensor) -> torch.Tensor:
        """Note the step's blocks in its tables; (T, hidden), zero for padding."""
        real = (step.positions >= 0).nonzero()[:, 0]
        rows, columns = step.rows[real].long(), step.positions[real].long() // BLOCK_SIZE
        step.tables[rows, columns] = step.fields[3, real]
        known, source = step.fields[0, real].long(), step.fields[4, real].long()
        drawn = step.chosen[source.clamp(min=0)].long()
        token_ids = torch.where(source >= 0, drawn, known).clamp(min=0)
        embedded = embeddings.new_zeros((step.count, embeddings.shape[1]))
        embedded[real] = embeddings[token_ids]
        return embedded

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, into: Linear | None
    ) -> torch.Tensor:
        """Root-mean-square norm of (T, hidden)."""
        del into
        return norm(x, weight, epsilon)

    def add_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> torch.Tensor:
        """Add x to the residual stream, in place, and norm the sum."""
        del into
        residual += x
        return norm(residual, weight, epsilon)

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn queries and keys of (T, qkv) in place; write keys and values."""
        self._attention.rotate(qkv, step, layer)

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        return self._attention.attend(qkv, step, layer)

    def merge(
        self,
        x: torch.Tensor | None,
        residual: torch.Tensor,
        between: Between,
        into: Linear | None,
    ) -> torch.Tensor:
        """Add to the residual stream, in place, and norm the sum; see `Ops`."""
        del into
        if x is not None:
            x = x if between.after is None else _normed(x, between.after)
            residual += x * between.scale
        return residual if between.before is None else _normed(residual, between.before)

    def gated(
        self, gate_up: torch.Tensor, into: Linear | None, activation: Activation, *, has_gate: bool
    ) -> torch.Tensor:
        """activation(gate) * up of (T, 2 * size), or activation(up) of (T, size)."""
        del into
        if not has_gate:
            return ACTIVATIONS[activation](gate_up)
        gate, up = gate_up.chunk(2, dim=1)
        return ACTIVATIONS[activation](gate) * up

    def experts(
        self, x: torch.Tensor, step: Step, weights: ExpertWeights, beside: torch.Tensor | None
    ) -> torch.Tensor:
        """What each token's experts make of (T, hidden), weighted and summed, plus `beside`."""
        del step
        return torch_experts.compute(x, weights, beside)

    def product(self, x: Activations, linear: Linear) -> torch.Tensor:
        """(T, columns) times a matrix -> (T, rows)."""
        assert isinstance(x, torch.Tensor)  # noqa: S101 - no other form is made here
        if isinstance(linear, Fp8):
            return fp8.product(x, linear)
        weight = linear.weight if isinstance(linear, Dense) else linear.widen(x.dtype)
        return functional.linear(x, weight, linear.bias)

    def choose(self, logits: torch.Tensor, draws: torch.Tensor, chosen: torch.Tensor) -> None:
        """A token a row of (n, vocab) float32 into chosen (n,)."""
        vocab = logits.shape[1]
        warmths = draws[0].view(torch.float32)[:, None]
        numbers, top_k, top_p = (field.long()[:, None] for field in draws[1:4])
        peaks, best = logits.max(dim=1, keepdim=True)
        distance = (peaks - logits) / warmths.clamp(min=1e-30)
        weights = (torch.exp(-distance) * _POINT).nan_to_num(0).long()
        ranked, order = distance.sort(dim=1)
        last = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab) - 1
        bound = ranked.gather(1, last)
        ends = torch.where(ranked <= bound, weights.gather(1, order), 0).cumsum(1)
        reached = torch.searchsorted(ends, _share(ends[:, -1:], top_p)).clamp(max=vocab - 1)
        bound = torch.where(top_p < _WHOLE, ranked.gather(1, reached).minimum(bound), bound)
        bound = bound.minimum(draws[4].view(torch.float32)[:, None])
        ends = torch.where(distance <= bound, weights, 0).cumsum(1)
        drawn = torch.searchsorted(ends, _share(ends[:, -1:], numbers), right=True)
        tokens = torch.where(warmths > 0, drawn, best)
        chosen.copy_(torch.where(peaks.isfinite(), tokens, -1)[:, 0])


def _normed(x: torch.Tensor, own: Norm) -> torch.Tensor:
    """A norm of (T, hidden)."""
    return norm(x, own.weight, own.epsilon, bias=own.bias, centred=own.centred)


def _share(whole: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """A share of 31 bits of a whole number, by whole numbers alone."""
    return ((whole >> 29) * number >> 2) + ((whole & (1 << 29) - 1) * number >> 31)
