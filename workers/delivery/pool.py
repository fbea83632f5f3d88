"""A Celery pool without processes: a doorbell reserves a slot, and an engine does the work."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool, apply_target
from celery.exceptions import Reject
from celery.utils.log import get_logger
from celery.worker import state

from workers.delivery.tasks import DOORBELL
from workers.serving.claimed_jobs import Outcome, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from workers.serving.worker import Worker

logger = get_logger(__name__)

REOPEN_S = 1.0
"""Pause before a queue is consumed again after its bells had to be put back."""


class Why(Enum):
    """Why a queue is not consumed."""

    POLLED = "the worker polls it"
    RESTING = "the worker claims nothing for now"
    CLOSED = "its model is not in memory"
    PUT_BACK = "a bell had to be put back a moment ago"


class EnginePool(BasePool):
    """Passes doorbells to the worker and reports to Celery when their jobs have ended.

    A bell takes no slot: the worker claims as many jobs as it has free slots, whichever bell rang.
    While it polls a queue (all slots are taken, or jobs come in a burst), the queue is *paused*:
    Celery does not consume it. A bell that still arrives for a full queue is put back. Celery's
    prefetch count, the sum of all slots, bounds the unacknowledged bells.

    Every attribute belongs to the main thread, which runs Celery's event loop; other threads
    only call `_post` and `wake`.
    """

    body_can_be_buffer = True
    signal_safe = False  # stopping waits for jobs, which a signal handler must not
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._worker: Worker | None = None
        self._celery_worker: Any = None
        self._hub: Any = None
        self._paused: dict[str, set[Why]] = {}
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._side = ThreadPoolExecutor(1, thread_name_prefix="side-task")

    # Celery's side

    def attach(self, worker: Worker, celery_worker: Any) -> None:
        """Serve this worker's queues; called before the pool starts."""
        self._worker = worker
        self._celery_worker = celery_worker
        self.limit = worker.slots
        for served in worker.served_queues.values():
            if not served.open:
                self._pause(served.queue, Why.CLOSED)

    def register_with_event_loop(self, loop: Any) -> None:
        """Take the event loop; Celery calls this for each new connection, then consumes."""
        self._hub = loop
        self._update_broker()

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
        """Start a task: a doorbell goes to the worker; anything else runs in the side thread."""
        if args[0] != DOORBELL:
            self._run_aside(target, args, kwargs, callback, accept_callback)
            return
        if accept_callback:
            accept_callback(os.getpid(), time.monotonic())
        queue: str = args[2]["delivery_info"]["routing_key"]
        if self._worker is None or self._worker.resting or not self._worker.takes(queue):
            self._put_back(queue, error_callback)
            return
        ended = partial(self._bell_ended, queue, callback, error_callback, time.monotonic())
        self._worker.take(Ticket(queue, partial(self._post, ended)))

    def on_stop(self) -> None:
        """End the side thread; `Serving` has drained the worker by then.

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

        :raises ValueError: always; remote control returns it to its caller, such as Flower.
        """
        raise ValueError(f"no {n} slots more: {self.limit} are fixed at the start (-c)")

    def shrink(self, n: int = 1) -> None:
        """Refuse, as `grow`.

        :raises ValueError: always.
        """
        raise ValueError(f"no {n} slots less: {self.limit} are fixed at the start (-c)")

    def in_a_hurry(self) -> bool:
        """Whether the process has to stop now (SIGQUIT, a second SIGINT)."""
        return state.should_terminate not in {None, False}

    def wake(self) -> None:
        """Make the event loop run once; any thread may call this.

        After a signal it would otherwise sleep on: its handler only leaves a note.
        """
        if self._hub is not None:
            self._hub.call_soon(self.pump)

    def request_stop(self) -> None:
        """Let the main thread leave its loop; any thread may call this."""
        state.should_stop = 1

    def rest_changed(self) -> None:
        """Follow `Worker.resting`: pause all queues or resume them; any thread may call this."""
        self._post(self._follow_rest)

    def consume(self, queue: str, wanted: bool) -> None:
        """Let Celery consume a queue, or not for now; any thread may call this."""
        self._post(self._resume if wanted else self._pause, queue, Why.POLLED)

    def opened(self, queue: str, is_open: bool) -> None:
        """Take a queue's bells only while it is open; any thread may call this."""
        self._post(self._resume if is_open else self._pause, queue, Why.CLOSED)

    def look(self) -> None:
        """Let the worker look for jobs without a bell: Redis refuses Celery's commands."""
        if self._worker is not None and not self._worker.resting:
            for queue in self._worker.served_queues:
                self._worker.take(Ticket(queue, has_bell=False))

    def pump(self) -> None:
        """Run the calls that other threads have queued; for use when the event loop has ended."""
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            call()

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "taken": self._worker.taken() if self._worker else {},
            "paused": sorted(self._paused),
        }

    # The worker's side

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        """Let the main thread call a function; any thread may call this."""
        self._calls.put(partial(function, *args))
        self.wake()

    def _bell_ended(
        self, queue: str, callback: Any, error_callback: Any, taken_s: float, outcome: Outcome
    ) -> None:
        if outcome is Outcome.FULL:  # it is paused by now
            error_callback(_einfo(Reject("no free slot", requeue=True)))
            return
        if outcome is Outcome.PUT_BACK:
            self._put_back(queue, error_callback)
            return
        # Request.on_success: acknowledges, and reports the job's duration to Flower.
        callback((0, outcome.name, time.monotonic() - taken_s))

    # Which queues are consumed

    def _follow_rest(self) -> None:
        resting = self._worker is not None and self._worker.resting
        for queue in self._served_queues():
            (self._pause if resting else self._resume)(queue, Why.RESTING)

    def _put_back(self, queue: str, error_callback: Any) -> None:
        """Leave a bell to other workers, and do not take it again at once."""
        self._pause(queue, Why.PUT_BACK)
        if queue not in self._served_queues():
            logger.error("Queue %s is not served here: name it with -Q at the start", queue)
        elif self._hub is not None and self._worker and not self._worker.draining:
            self._hub.call_later(REOPEN_S, self._resume, queue, Why.PUT_BACK)
        error_callback(_einfo(Reject("not looked at", requeue=True)))

    def _pause(self, queue: str, why: Why) -> None:
        self._paused.setdefault(queue, set()).add(why)
        self._update_broker()

    def _resume(self, queue: str, why: Why) -> None:
        reasons = self._paused.get(queue, set())
        reasons.discard(why)
        if not reasons:
            self._paused.pop(queue, None)
        self._update_broker()

    def _update_broker(self) -> None:
        """Pass on which queues are paused; a new connection gets it again."""
        consumer = self._task_consumer()
        if consumer is not None:
            consumer.channel.pause(frozenset(self._paused))

    def _served_queues(self) -> Collection[str]:
        return () if self._worker is None else self._worker.served_queues

    def _task_consumer(self) -> Any:
        consumer = getattr(self._celery_worker, "consumer", None)
        return getattr(consumer, "task_consumer", None)

    def _run_aside(
        self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any
    ) -> None:
        if accept_callback:
            accept_callback(os.getpid(), time.monotonic())
        self._side.submit(
            apply_target, target, args, kwargs, callback=partial(self._post, callback)
        )


def _einfo(error: Exception) -> Any:
    """Wrap an error as Celery's callbacks expect it."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
