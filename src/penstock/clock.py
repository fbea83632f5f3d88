"""Unix time by Redis's clock, unaffected by changes of this machine's clock.

Every process of a fleet takes its time from this clock: a machine whose clock is wrong, or is set
while it works, neither ends a key's life early nor dates an answer wrongly. Before Redis's first
answer, it is this machine's clock at the process's start. An API process of several Redis has one
for each: what is stored in one is dated by that one's clock.
"""

from __future__ import annotations

import time
from typing import Final

FRESH_S: Final = 30.0
"""For how long an answer of Redis is trusted: quartz is accurate to milliseconds in that time."""


class FleetClock:
    """Redis's clock as last read, continued by this process's monotonic clock.

    Any thread may read it or pass it a new answer: an update is a single assignment.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._heard_s = float("-inf")

    def hear(self, redis_time: tuple[int, int], asked_s: float) -> None:
        """Take the answer to TIME (seconds, microseconds); `asked_s` is `time.monotonic()` before.

        Redis read its clock somewhere between the question and the answer. A known offset is kept
        if it is consistent with that, so that a slow answer does not move the clock.
        """
        heard_s = time.monotonic()
        told_s = redis_time[0] + redis_time[1] / 1e6
        slack_s = (heard_s - asked_s) / 2
        middle_s = told_s - (asked_s + slack_s)
        if abs(middle_s - self._offset_s) > slack_s:
            self._offset_s = middle_s
        self._heard_s = heard_s

    def ahead_s(self, other: FleetClock) -> float:
        """Return by how many seconds this clock is ahead of another one."""
        return self._offset_s - other._offset_s

    @property
    def is_fresh(self) -> bool:
        """Return whether Redis's clock was read recently."""
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
"""The process's clock, of the home Redis, or of the one that has a worker's queues."""
