"""When a lane looks for jobs by itself, and when Celery's bells tell it to.

A bell costs about a millisecond of Celery's work, so it is the signal that there is work, not the way
to each job of it: like a network card's driver, which turns to polling after the first interrupt of a
burst. While a lane is full or jobs come one upon the other, Celery does not consume its queue; the
lane looks when a slot becomes free, or every few milliseconds, and takes all that it has room for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workers.serving.claimed_jobs import ClaimedJobs
    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import ServedQueue

MOST_AT_ONCE: Final = 16
"""Jobs of one claim: more would save little, and what comes later with a better priority waits."""

BURST_S: Final = 0.005
"""Jobs that come closer one upon the other are a burst, which ends when none has come for so long."""

LOOK_S: Final = 0.002
"""Pause between two looks in a burst."""


@dataclass(slots=True)
class Polling:
    """How one lane gets its jobs just now. The preparer's thread owns it; others may read `alone`."""

    served: ServedQueue
    claimed_jobs: ClaimedJobs
    hooks: Hooks
    is_only: bool = True
    """Whether the worker has no other lane: Celery waits for all queues at once, and takes a tenth of
    a second to wait for others, which no burst is worth."""
    alone: bool = False
    """Whether Celery does not: a slot that becomes free calls for a look."""
    due_s: float | None = None
    """When to look next (monotonic), slots that become free aside."""
    _claimed_s: float = float("-inf")

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.served.slots - self.claimed_jobs.taken(self.served.queue)

    def claimed(self, count: int, waiting: int) -> None:
        """Note that a look has brought so many jobs, which are held by now, and how many it left."""
        now_s = time.monotonic()
        burst = self.is_only and (count > 1 or now_s - self._claimed_s < BURST_S)
        self._claimed_s = now_s
        for_others = waiting > 0 and count < MOST_AT_ONCE and self.free > 0
        if for_others:
            self.let_go()
        elif burst or self.alone or self.free <= 0:
            self._go_alone(now_s if waiting else now_s + LOOK_S)

    def found_none(self, waiting: int) -> None:
        """Note that a look has brought nothing, and how many jobs it has left to other workers."""
        now_s = time.monotonic()
        if waiting or now_s - self._claimed_s >= BURST_S:
            self.let_go()
        elif self.alone:
            self.due_s = now_s + LOOK_S

    def let_go(self) -> None:
        """Have Celery consume the queue."""
        if self.alone:
            self.alone = False
            self.hooks.consume(self.served.queue, True)

    def _go_alone(self, due_s: float) -> None:
        if not self.alone:
            self.alone = True
            self.hooks.consume(self.served.queue, False)
        # After `alone`: a slot that has become free meanwhile calls for a look, or is seen here.
        if self.free > 0:
            self.due_s = due_s
