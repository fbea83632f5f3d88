"""The only thread that writes events."""

from __future__ import annotations

import threading
import time
from queue import Empty, Queue
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from penstock.contract.events import TERMINAL_EVENTS
from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.jobs.queue import Refusal, Row

if TYPE_CHECKING:
    from penstock.contract.events import Event
    from penstock.engine.events import AttemptEvent
    from penstock.transport.jobs.queue import WorkerQueue
    from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs
    from workers.serving.hooks import Hooks

logger = get_logger(__name__)

STEPS_BEHIND = 64
"""Steps that may wait to be written before the engines have to wait."""

ROWS_AT_ONCE = 1024
"""Rows of one script call; a step has one for each running sequence."""

_RETRY_S = 0.5


class Publisher(threading.Thread):
    """Writes steps in their order, one call for each queue.

    When it is behind (Redis is slow or away), several steps share a call; when it is far behind,
    `put` blocks the engines. It never gives up: accepted jobs outlive an outage of Redis, and the
    events of jobs that another worker has claimed meanwhile are refused and dropped.
    """

    def __init__(
        self,
        *,
        claimed: ClaimedJobs,
        jobs: WorkerQueue,
        hooks: Hooks,
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        self._claimed = claimed
        self._jobs = jobs
        self._hooks = hooks
        self._steps: Queue[list[AttemptEvent] | None] = Queue(maxsize=STEPS_BEHIND)
        self._giving_up = threading.Event()

    def put(self, events: list[AttemptEvent]) -> None:
        """Queue one step's events; may block."""
        if not self._giving_up.is_set():
            self._steps.put(events)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all steps are written; return whether they were within `timeout_s`."""
        end = time.monotonic() + timeout_s
        with self._steps.all_tasks_done:
            while self._steps.unfinished_tasks:
                left_s = end - time.monotonic()
                if left_s <= 0 or not self._steps.all_tasks_done.wait(left_s):
                    return False
        return True

    def close(self) -> None:
        """Stop writing, and let waiting engines continue; call `flush` first."""
        self._giving_up.set()
        while self._take_nowait() is not None:
            self._steps.task_done()
        self._steps.put(None)

    def run(self) -> None:
        """Write until closed."""
        while (first := self._steps.get()) is not None and not self._giving_up.is_set():
            steps = [first]
            rows = len(first)
            while rows < ROWS_AT_ONCE and (step := self._take_nowait()) is not None:
                steps.append(step)
                rows += len(step)
            try:
                self._write([event for step in steps for event in step])
            except Exception:
                logger.exception("Events could not be written; their jobs are left to their leases")
                self._lose_all(steps)
            finally:
                for _ in steps:
                    self._steps.task_done()

    def _take_nowait(self) -> list[AttemptEvent] | None:
        try:
            return self._steps.get_nowait()
        except Empty:
            return None

    def _write(self, events: list[AttemptEvent]) -> None:
        batches: dict[str, list[tuple[ClaimedJob, Event]]] = {}
        for emitted in events:
            claimed = self._claimed.get(emitted.attempt_id)
            if claimed is not None:
                batches.setdefault(claimed.served.queue, []).append((claimed, emitted.event))
        for queue, batch in batches.items():
            asked_s = time.monotonic()
            refusals = self._append(queue, batch)
            if refusals is None:
                return
            self._claimed.leased((claimed.attempt_id for claimed, _ in batch), asked_s)
            refused = {refusal.job_id for refusal in refusals}
            for refusal in refusals:
                if refusal.reason == "broken":
                    logger.error(
                        "Job %s is dropped: %s or %s has another type than ours",
                        refusal.job_id,
                        keys.job(queue, refusal.job_id),
                        keys.journal(queue, refusal.job_id),
                    )
            for claimed, event in batch:
                if claimed.claim.job.id in refused:
                    self._hooks.lose(claimed)
                elif isinstance(event, TERMINAL_EVENTS):
                    self._hooks.end(claimed)

    def _append(self, queue: str, batch: list[tuple[ClaimedJob, Event]]) -> list[Refusal] | None:
        """Append until Redis has answered; None if the worker gave up before.

        The queue is patient for `redis_patience_s` itself. Appending again after a lost answer is
        safe: nothing is written twice.
        """
        rows = [
            Row(job_id=event.job_id, epoch=claimed.claim.epoch, event=event)
            for claimed, event in batch
        ]
        while not self._giving_up.is_set():
            try:
                return self._jobs.append(queue, rows)
            except StoreUnavailable as error:
                if error.is_refused:
                    return self._append_apart(queue, rows)
                logger.warning("%d events of %s wait: %s", len(rows), queue, error)
                self._giving_up.wait(_RETRY_S)
        return None

    def _append_apart(self, queue: str, rows: list[Row]) -> list[Refusal]:
        """Append each job's events alone: what Redis refuses of one must not keep others back.

        A job whose events are refused is dropped; its lease runs out, or its client hears why.
        """
        refusals: list[Refusal] = []
        for job_id in dict.fromkeys(row.job_id for row in rows):
            its = [row for row in rows if row.job_id == job_id]
            try:
                refusals += self._jobs.append(queue, its)
            except StoreUnavailable as error:
                logger.error("The events of job %s are dropped: %s", job_id, error)  # noqa: TRY400 - the message is complete
                refusals.append(Refusal(job_id, "fenced"))
        return refusals

    def _lose_all(self, steps: list[list[AttemptEvent]]) -> None:
        for attempt_id in {emitted.attempt_id for step in steps for emitted in step}:
            claimed = self._claimed.get(attempt_id)
            if claimed is not None:
                self._hooks.lose(claimed)
