"""A prompt's embedding, gathered over the chunks in which it is computed."""

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
        """Take the next tokens' states, (tokens, hidden)."""
        total = states.float().sum(0).cpu()
        self._sum = total if self._sum is None else self._sum + total
        self.count += states.shape[0]

    def embedding(self) -> str:
        """Return their mean: base64 of float32, little-endian; empty where there are none."""
        if self._sum is None:
            return ""
        mean = (self._sum / self.count).numpy().astype("<f4")
        return base64.b64encode(mean.tobytes()).decode()
