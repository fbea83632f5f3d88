"""A Celery pool without processes: a doorbell reserves a slot, and an engine does the work."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool, apply_target
from celery.exceptions import Reject
from celery.utils.log import get_logger
from celery.worker import state

from workers.held import Outcome, Ticket
from workers.tasks import DOORBELL

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.station import Station

logger = get_logger(__name__)

REOPEN_S = 1.0
"""Pause before a queue is consumed again after its bells had to be put back."""


class EnginePool(BasePool):
    """Hands doorbells to the station and tells Celery when their jobs have ended.

    Celery's prefetch count is the sum of all slots, so a worker of one queue stops reserving
    bells when its engine is full. With several queues, one full queue could reserve the others'
    share: a queue that is full is *paused* (not consumed), and while it is, each slot that becomes
    free takes a bell from the queue's list by itself; when the list is empty, Celery consumes it
    again. Bells that come in spite of it (Celery reconnects) are put back.

    Every attribute belongs to the main thread, which runs Celery's event loop; other threads
    only call `_post` and `wake`.
    """

    body_can_be_buffer = True
    signal_safe = False  # stopping waits for jobs, which a signal handler must not
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._station: Station | None = None
        self._worker: Any = None
        self._hub: Any = None
        self._taken: dict[str, int] = {}
        self._paused: set[str] = set()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._side = ThreadPoolExecutor(1, thread_name_prefix="side-task")

    # Celery's side

    def attach(self, station: Station, worker: Any) -> None:
        """Serve this station's lanes; called before the pool starts."""
        self._station = station
        self._worker = worker
        self._taken = dict.fromkeys(station.lanes, 0)
        self.limit = station.slots

    def register_with_event_loop(self, loop: Any) -> None:
        """Take the event loop; Celery calls this anew for each connection, then consumes."""
        self._hub = loop
        for queue in tuple(self._paused):
            if self._is_full(queue):
                self._pause(queue)
            else:
                self._paused.discard(queue)

    def on_apply(  # noqa: PLR0917 - Celery's signature
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        error_callback: Any = None,
        **_: Any,
    ) -> None:
        """Start a task: a doorbell takes a slot; anything else runs in the side thread."""
        if args[0] != DOORBELL:
            self._run_aside(target, args, kwargs, callback, accept_callback)
            return
        if accept_callback:
            accept_callback(os.getpid(), time.monotonic())
        queue: str = args[2]["delivery_info"]["routing_key"]
        if self._station is None or self._is_full(queue):
            self._put_back(queue, error_callback)
            return
        self._taken[queue] += 1
        if len(self._taken) > 1 and self._is_full(queue):
            self._pause(queue)
        ended = partial(self._bell_ended, queue, callback, error_callback, time.monotonic())
        self._station.take(Ticket(queue, partial(self._post, ended)))

    def on_stop(self) -> None:
        """End the side thread; `Serving` has drained the station by then.

        Celery's handler of SIGQUIT (and of a second SIGINT) calls this from within the signal
        handler. The drain that it interrupts sees `state.should_terminate` and makes haste.
        """
        hurry = self.in_a_hurry()
        self._side.shutdown(wait=not hurry, cancel_futures=hurry)
        if not hurry:
            self.pump()

    on_terminate = on_stop

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Do nothing: a doorbell is not its job; jobs are cancelled through their queue."""

    def grow(self, n: int = 1) -> None:
        """Refuse: the KV cache was made for the slots that there are.

        :raises ValueError: always; remote control hands it to whoever asked, Flower for one.
        """
        raise ValueError(f"no {n} slots more: {self.limit} are fixed at the start (-c)")

    def shrink(self, n: int = 1) -> None:
        """Refuse, as `grow`.

        :raises ValueError: always.
        """
        raise ValueError(f"no {n} slots less: {self.limit} are fixed at the start (-c)")

    def in_a_hurry(self) -> bool:
        """Whether the process was told to stop now (SIGQUIT, a second SIGINT)."""
        return state.should_terminate not in {None, False}

    def wake(self) -> None:
        """Have the event loop turn once; any thread may call this.

        After a signal it would otherwise sleep on: its handler only leaves a note.
        """
        if self._hub is not None:
            self._hub.call_soon(self.pump)

    def rest_changed(self) -> None:
        """Claim nothing while the station rests, go on when it does; any thread may call this."""
        self._post(self._follow_rest)

    def pump(self) -> None:
        """Run what other threads left for this one; for use when the event loop has ended."""
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            call()

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "taken": dict(self._taken),
            "paused": sorted(self._paused),
        }

    # The station's side

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        """Have the main thread call a function; any thread may ask."""
        self._calls.put(partial(function, *args))
        self.wake()

    def _bell_ended(
        self, queue: str, callback: Any, error_callback: Any, taken_s: float, outcome: Outcome
    ) -> None:
        if outcome is Outcome.PUT_BACK:
            self._taken[queue] -= 1
            self._put_back(queue, error_callback)
            return
        # Request.on_success: acknowledges, and tells Flower how long the slot was taken.
        callback((0, outcome.name, time.monotonic() - taken_s))
        self._slot_freed(queue)

    def _slot_freed(self, queue: str) -> None:
        """Let a paused queue go on with its next bell, else give the slot back."""
        if queue in self._paused and self._station is not None and self._may_claim():
            ended = partial(self._own_bell_ended, queue)
            self._station.take(Ticket(queue, partial(self._post, ended), has_bell=False))
        else:
            self._taken[queue] -= 1

    def _own_bell_ended(self, queue: str, outcome: Outcome) -> None:
        if outcome is Outcome.ENDED:
            self._slot_freed(queue)
            return
        self._taken[queue] -= 1
        if outcome is Outcome.EMPTY:
            self._resume(queue)
        else:
            self._resume_later(queue)

    # Bells

    def _may_claim(self) -> bool:
        station = self._station
        return station is not None and not station.draining and not station.resting

    def _follow_rest(self) -> None:
        if self._station is not None and self._station.resting:
            for queue in self._taken:
                self._pause(queue)
        else:
            for queue in tuple(self._paused):
                if not self._is_full(queue):
                    self._resume(queue)

    def _is_full(self, queue: str) -> bool:
        """Return whether no further job may be claimed; a queue without a lane is always full."""
        if self._station is None or queue not in self._taken or self._station.resting:
            return True
        return self._taken[queue] >= self._station.lanes[queue].slots

    def _put_back(self, queue: str, error_callback: Any) -> None:
        """Leave a bell to others, and do not take it again at once."""
        self._pause(queue)
        if queue in self._taken:
            # A full queue goes on when a slot becomes free, any other after a while.
            if not self._is_full(queue):
                self._resume_later(queue)
        else:
            logger.error("Queue %s is not served here: name it with -Q at the start", queue)
        error_callback(_einfo(Reject("no free slot", requeue=True)))

    def _pause(self, queue: str) -> None:
        self._paused.add(queue)
        consumer = self._task_consumer()
        if consumer is not None:
            with suppress(*self._worker.consumer.connection_errors):
                consumer.cancel_by_queue(queue)

    def _resume_later(self, queue: str) -> None:
        if self._hub is not None and self._may_claim():
            self._hub.call_later(REOPEN_S, self._resume, queue)

    def _resume(self, queue: str) -> None:
        if queue not in self._paused or not self._may_claim():
            return
        self._paused.discard(queue)
        consumer = self._task_consumer()
        if consumer is None or consumer.consuming_from(queue):
            return
        # When the connection is lost, Celery makes a new one and consumes every queue again.
        with suppress(*self._worker.consumer.connection_errors):
            consumer.add_queue(self._worker.app.amqp.queues[queue])
            consumer.consume()

    def _task_consumer(self) -> Any:
        consumer = getattr(self._worker, "consumer", None)
        return getattr(consumer, "task_consumer", None)

    def _run_aside(
        self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any
    ) -> None:
        if accept_callback:
            accept_callback(os.getpid(), time.monotonic())
        self._side.submit(
            apply_target, target, args, kwargs, callback=partial(self._post, callback)
        )


def _einfo(error: Exception) -> ExceptionInfo:
    """Wrap an error as Celery's callbacks want it."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
