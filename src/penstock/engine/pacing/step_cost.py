"""The time of a step as a linear function of the tokens that it computes."""

from __future__ import annotations

from typing import Final

_SPARE_ROWS: Final = 16.0
"""Tokens that cost as much as a step's fixed part, as long as nothing was measured.

Each step reads all weights, whatever it computes; so it is about that on CPUs and GPUs.
"""


class StepCost:
    """Least squares over the measured steps, with fading weights.

    While all steps have about as many tokens, the slope is mostly the prior's; the line always goes
    through their mean. The engine's thread owns it.
    """

    def __init__(self, fade: float) -> None:
        """`fade` multiplies a step's weight with each later step."""
        self._fade = fade
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, tokens: int, step_s: float) -> None:
        """Learn from a step."""
        fade = self._fade
        self._weight = self._weight * fade + 1.0
        self._x = self._x * fade + tokens
        self._y = self._y * fade + step_s
        self._xx = self._xx * fade + tokens * tokens
        self._xy = self._xy * fade + tokens * step_s

    def read(self) -> tuple[float, float] | None:
        """Return seconds a step and seconds a token, or None before the first step."""
        if not self._weight:
            return None
        x, y = self._x / self._weight, self._y / self._weight
        variance = max(self._xx / self._weight - x * x, 0.0)
        covariance = self._xy / self._weight - x * y
        prior = y / (x + _SPARE_ROWS)
        slope = min(max((covariance + prior) / (variance + 1.0), 0.0), y / max(x, 1.0))
        return y - slope * x, slope
