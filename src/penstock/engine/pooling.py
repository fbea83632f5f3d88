"""A prompt's embedding, collected over its prefill chunks."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Pooled:
    """The sum of a prompt's first `count` last hidden states, in float32 on the CPU."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: torch.Tensor | None = None

    def add(self, states: torch.Tensor) -> None:
        """Add the next tokens' states, (tokens, hidden)."""
        total = states.float().sum(0).cpu()
        self._sum = total if self._sum is None else self._sum + total
        self.count += states.shape[0]

    def embedding(self) -> str:
        """Return the mean as `encoded`; empty if there are no states."""
        return "" if self._sum is None else encoded(self._sum / self.count)


def encoded(vector: torch.Tensor) -> str:
    """Return a vector as events carry it: base64 of float32, little-endian."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
