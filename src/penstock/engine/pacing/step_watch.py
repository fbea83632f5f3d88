"""How long a step takes at most, to distinguish a hanging step from a slow one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_ENOUGH_STEPS: Final = 64
_WINDOW_STEPS: Final = 512
_BREAK_S: Final = 10.0


class StepWatch:
    """The longest of the last steps, while the engine is at work without a longer break.

    The first steps of a process, and those after a break, are expected to be slow: weights are read
    from the disk, buffers made, kernels chosen. So there is no figure before some steps were seen,
    and counting starts again after a break. Written by the engine's thread, read by any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended_s = clock()
        self._steps = 0
        self._longest_s = self._longest_before_s = 0.0

    def add(self, step_s: float) -> None:
        """Count a step that has just ended."""
        now_s = self._clock()
        if now_s - step_s - self._ended_s > _BREAK_S:
            self._steps = 0
            self._longest_s = self._longest_before_s = 0.0
        self._ended_s = now_s
        self._steps += 1
        self._longest_s = max(self._longest_s, step_s)
        if self._steps % _WINDOW_STEPS == 0:
            self._longest_before_s, self._longest_s = self._longest_s, 0.0

    def longest_s(self, begun_s: float) -> float | None:
        """Return the longest (s) of the steps before one that began at `begun_s` (monotonic).

        None if too few are known, or if it is the first after a break.
        """
        if self._steps < _ENOUGH_STEPS or begun_s - self._ended_s > _BREAK_S:
            return None
        return max(self._longest_s, self._longest_before_s)
