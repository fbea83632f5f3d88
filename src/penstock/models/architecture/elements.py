"""What happens to a row by itself: activations and norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
"""`gelu` is the exact one, `gelu_tanh` its common approximation, `relu2` the square of ReLU."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm: with `rms`, the weight is applied to x / rms(x), with `layer` to (x - mean) / deviation.

    `offset` is added to the weight. If `name` is None, the weight is 1 and there is no bias.
    """

    name: str | None
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0
