"""Unix time by Redis's clock, which no step of this machine's own clock moves.

Every process of a fleet that says what time it is says it by this clock: a machine whose clock is
wrong, or is set while it works, neither ends a key's life early nor dates an answer into another
hour. Until Redis has been heard, it is this machine's clock at the process's start.
"""

from __future__ import annotations

import time
from typing import Final

FRESH_S: Final = 30.0
"""How long a look at Redis's clock is believed: quartz is good to milliseconds in that time."""


class FleetClock:
    """Redis's clock as far as it is known, carried on by this process's monotonic clock.

    Any thread may read it, and any may tell it what Redis said: one assignment is all it takes.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._heard_s = float("-inf")

    def hear(self, redis_time: tuple[int, int], asked_s: float) -> None:
        """Take the answer to TIME (seconds, microseconds); `asked_s` is `time.monotonic()` before.

        Redis looked at its clock somewhere between the question and the answer. What is known
        already stays where it fits into that, so a slow answer does not push the clock about.
        """
        heard_s = time.monotonic()
        told_s = redis_time[0] + redis_time[1] / 1e6
        slack_s = (heard_s - asked_s) / 2
        middle_s = told_s - (asked_s + slack_s)
        if abs(middle_s - self._offset_s) > slack_s:
            self._offset_s = middle_s
        self._heard_s = heard_s

    @property
    def is_fresh(self) -> bool:
        """Whether Redis has been heard a moment ago."""
        return time.monotonic() - self._heard_s < FRESH_S

    def now_s(self) -> float:
        """Return the time in seconds."""
        return time.monotonic() + self._offset_s

    def now_ms(self) -> int:
        """Return the time in whole milliseconds."""
        return int(self.now_s() * 1000)

    def now_ns(self) -> int:
        """Return the time in nanoseconds, good to a microsecond or so."""
        return int(self.now_s() * 1e9)


clock: Final = FleetClock()
"""The process's own."""
