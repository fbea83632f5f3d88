"""When a queue is polled for jobs, and when Celery's doorbells announce them.

A bell costs Celery about a millisecond, so it signals that there is work but does not carry each
job: a network card's driver likewise switches to polling after a burst's first interrupt. While all
slots are taken, or jobs come in a burst, Celery does not consume the queue. It is then polled when
a slot becomes free, or every few milliseconds, for as many jobs as there are free slots.
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
"""Jobs of one claim: more would save little, and later jobs of a better priority would wait."""

BURST_S: Final = 0.005
"""Jobs that follow each other within this time are a burst; it ends after as long without one."""

LOOK_S: Final = 0.002
"""Pause between two polls in a burst."""


@dataclass(slots=True)
class Polling:
    """How one queue gets its jobs now. The preparer's thread owns it; others may read `alone`."""

    served: ServedQueue
    claimed_jobs: ClaimedJobs
    hooks: Hooks
    is_only: bool = True
    """Whether the worker serves no other queue: Celery waits for all queues at once, and switching
    takes 0.1 s, longer than a burst lasts."""
    alone: bool = False
    """Whether the queue is polled and Celery does not consume it."""
    due_s: float | None = None
    """When to poll next (monotonic), unless a slot becomes free before."""
    owed: bool = False
    """Whether the next poll is for a job that was left to another worker, and whose bell is gone."""
    _claimed_s: float = float("-inf")

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self.served.slots - self.claimed_jobs.taken(self.served.queue)

    def claimed(self, count: int, waiting: int) -> None:
        """Note that a poll has claimed `count` jobs, already leased, and left `waiting`."""
        now_s = time.monotonic()
        burst = self.is_only and (count > 1 or now_s - self._claimed_s < BURST_S)
        self._claimed_s = now_s
        for_others = waiting > 0 and count < MOST_AT_ONCE and self.free > 0
        if for_others:
            self.let_go()
        elif burst or self.alone or self.free <= 0:
            self._go_alone(now_s if waiting else now_s + LOOK_S)

    def left(self, again_s: float | None) -> None:
        """Note that a look has left jobs to other workers, and when to look for them again."""
        if again_s is None or self.free <= 0:
            return
        due_s = time.monotonic() + again_s
        if self.due_s is None or due_s < self.due_s:
            self.due_s = due_s
        self.owed = True

    def found_none(self, waiting: int) -> None:
        """Note that a poll has claimed nothing, and left `waiting` jobs to other workers."""
        now_s = time.monotonic()
        if waiting or now_s - self._claimed_s >= BURST_S:
            self.let_go()
        elif self.alone:
            self.due_s = now_s + LOOK_S

    def let_go(self) -> None:
        """Let Celery consume the queue again."""
        if self.alone:
            self.alone = False
            self.hooks.consume(self.served.queue, True)

    def _go_alone(self, due_s: float) -> None:
        if not self.alone:
            self.alone = True
            self.hooks.consume(self.served.queue, False)
        # After `alone` is set: a slot that became free meanwhile either polls, or is seen here.
        if self.free > 0:
            self.due_s = due_s
