"""A worker's spans: one for each attempt at a job, from its claim to its last event."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from penstock.clock import clock

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent
    from penstock.observability.tracing import JobSpans, Tracing
    from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs


class AttemptSpans:
    """Makes spans from the events that are published. Called by several threads."""

    def __init__(self, tracing: Tracing, claimed: ClaimedJobs, worker_id: str) -> None:
        self._tracing = tracing
        self._claimed = claimed
        self._worker_id = worker_id
        self._open: dict[str, JobSpans] = {}
        self._lock = threading.Lock()

    def see(self, events: list[AttemptEvent]) -> None:
        """Note events and their time."""
        now_ns = clock.now_ns()
        with self._lock:
            for emitted in events:
                self._note(emitted, now_ns)

    def _note(self, emitted: AttemptEvent, now_ns: int) -> None:
        spans = self._open.get(emitted.attempt_id)
        if spans is None:
            claimed = self._claimed.get(emitted.attempt_id)
            if claimed is None:
                return
            spans = self._open[emitted.attempt_id] = self._tracing.attempt(
                claimed.claim.job,
                (claimed.ticket.rung_ns, claimed.claimed_ns),
                self._worker_id,
                claimed.claim.epoch,
            )
        if spans.see(emitted.event, now_ns):
            del self._open[emitted.attempt_id]

    def drop(self, claimed: ClaimedJob) -> None:
        """End the span of an attempt that was given up."""
        with self._lock:
            spans = self._open.pop(claimed.attempt_id, None)
        if spans is not None:
            spans.drop(clock.now_ns())

    def close(self) -> None:
        """End the open spans, and send all of them."""
        now_ns = clock.now_ns()
        with self._lock:
            for spans in self._open.values():
                spans.drop(now_ns)
            self._open.clear()
        self._tracing.close()
