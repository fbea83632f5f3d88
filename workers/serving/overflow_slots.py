"""Slots beyond the usual ones: jobs of a dead worker need not wait for a free slot."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from workers.serving.claimed_jobs import Outcome, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import ServedQueue


class OverflowSlots:
    """Claims returned jobs, one ticket after the other, while a queue has overflow slots free.

    In a full fleet no worker has a slot for a dead worker's jobs, and their clients wait with half
    an answer. A larger batch for the length of one answer costs the running jobs less than the wait
    costs these. Any thread may call any method.
    """

    def __init__(self, served_queues: Iterable[ServedQueue], hooks: Hooks) -> None:
        self._hooks = hooks
        self._free = {served.queue: served.spare for served in served_queues}
        self._looking: set[str] = set()
        self._lock = threading.Lock()

    def look(self, queue: str) -> None:
        """Let the preparer look for a returned job, if an overflow slot is free and it is not looking."""
        with self._lock:
            if queue in self._looking or self._free[queue] <= 0:
                return
            self._looking.add(queue)
            self._free[queue] -= 1
        self._hooks.take(
            Ticket(
                queue,
                partial(self._done, queue),
                has_bell=False,
                only_returned=True,
                claimed=partial(self._claimed, queue),
            )
        )

    def _claimed(self, queue: str) -> None:
        with self._lock:
            self._looking.discard(queue)
        self.look(queue)  # there may be more

    def _done(self, queue: str, outcome: Outcome) -> None:
        with self._lock:
            self._free[queue] += 1
            if outcome is not Outcome.ENDED:  # no job was claimed
                self._looking.discard(queue)
