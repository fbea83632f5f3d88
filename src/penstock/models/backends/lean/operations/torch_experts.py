"""Mixtures of experts by torch alone: the reference of the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from penstock.models.architecture.description import ClampedGate

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.architecture.description import Routing
    from penstock.models.architecture.elements import Activation
    from penstock.models.backends.lean.products.linear import Matrices
    from penstock.models.backends.lean.weights import ExpertWeights

ACTIVATIONS: Final[dict[Activation, Callable[[torch.Tensor], torch.Tensor]]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}


def compute(x: torch.Tensor, weights: ExpertWeights, beside: torch.Tensor | None) -> torch.Tensor:
    """See `Ops.experts`."""
    router = weights.router
    logits = functional.linear(x.to(router.weight.dtype), router.weight, router.bias)
    chosen, shares = choose(logits.float(), weights.form.routing, weights.correction)
    out = torch.zeros_like(x, dtype=torch.float32)
    if beside is not None:
        if weights.shared_gate is not None:
            beside = beside * torch.sigmoid(functional.linear(x, weights.shared_gate))
        out += beside
    for expert in range(weights.form.routing.experts):
        tokens, slots = torch.where(chosen == expert)
        if len(tokens):
            made = _one(x[tokens], expert, weights).float() * shares[tokens, slots, None]
            out.index_add_(0, tokens, made)
    return out.to(x.dtype)


def choose(
    logits: torch.Tensor, routing: Routing, correction: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (T, chosen) experts and weights of router products (T, experts) float32."""
    scores = logits
    if routing.scoring == "softmax":
        scores = logits.softmax(dim=1)
    elif routing.scoring == "sigmoid":
        scores = logits.sigmoid()
    ranks = scores if correction is None else scores + correction
    chosen = ranks.topk(routing.chosen, dim=1).indices
    shares = scores.gather(1, chosen)
    if routing.scoring == "softmax_of_chosen":
        shares = shares.softmax(dim=1)
    elif routing.normalise:
        total = shares.sum(dim=1, keepdim=True).clamp(min=routing.least_sum)
        shares = shares / (total + routing.added_sum)
    return chosen, shares * routing.scale


def _one(x: torch.Tensor, expert: int, weights: ExpertWeights) -> torch.Tensor:
    """What one expert makes of rows."""
    up_bias, down_bias = (
        None if bias is None else bias[expert] for bias in (weights.gate_up_bias, weights.down_bias)
    )
    both = functional.linear(x, _matrix(weights.gate_up, expert, x.dtype), up_bias)
    gate, up = (both[:, 0::2], both[:, 1::2]) if weights.interleaved else both.chunk(2, dim=1)
    activation = weights.form.activation
    if isinstance(activation, ClampedGate):
        gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
        inner = (up + 1) * gate * torch.sigmoid(activation.alpha * gate)
    else:
        inner = ACTIVATIONS[activation](gate) * up
    return functional.linear(inner, _matrix(weights.down, expert, x.dtype), down_bias)


def _matrix(matrices: Matrices, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """One expert's (rows, columns)."""
    if isinstance(matrices, torch.Tensor):
        return matrices[expert]
    return matrices.expert(expert).widen(dtype)
