"""Places beside the slots: jobs of a worker that died need not wait for one to be free."""

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
    """Takes returned jobs up, one ticket after the other, while its lane has spare places.

    The others of a full fleet have no slot for what a dead worker held, and its clients wait with
    half an answer before them. A batch that is larger for the length of an answer costs those who
    run already less than the wait costs these. Any thread may call any method.
    """

    def __init__(self, served_queues: Iterable[ServedQueue], hooks: Hooks) -> None:
        self._hooks = hooks
        self._places = {served.queue: served.spare for served in served_queues}
        self._looking: set[str] = set()
        self._lock = threading.Lock()

    def look(self, queue: str) -> None:
        """Have the preparer look for a returned job, if there is a place and it does not do so."""
        with self._lock:
            if queue in self._looking or self._places[queue] <= 0:
                return
            self._looking.add(queue)
            self._places[queue] -= 1
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
        self.look(queue)  # where there was one, there may be more

    def _done(self, queue: str, outcome: Outcome) -> None:
        with self._lock:
            self._places[queue] += 1
            if outcome is not Outcome.ENDED:  # no job was claimed
                self._looking.discard(queue)
