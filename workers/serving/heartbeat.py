"""The thread that renews leases, reaps, announces the worker, and watches the engines."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from celery.utils.log import get_logger

from penstock.errors import PenstockError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from penstock.settings import Settings
    from penstock.transport.fleet.registry import Announcer
    from penstock.transport.jobs.queue import WorkerQueue
    from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs
    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)

RENEWALS_PER_LEASE = 4

SHORTEST_PAUSE_S = 0.01

HURRIED_PAUSE_S = 0.1
HURRY_S = 1.5
"""For `HURRY_S` after a lease ended, beats come every `HURRIED_PAUSE_S`: its jobs need slots, and
one beat may miss a slot that is free only for a moment."""

HEADS_RENEWED_S = 60.0
"""How often Redis is reminded of the prompts that a cache holds; it keeps them for an hour."""

MOST_HEADS = 1_024
"""Lost heads of a queue that wait to be reported; Redis knows of no more."""

ASLEEP_S = 1.0
"""A beat that is later than this: the process was stopped, or got no CPU time."""

HUNG_FOR_LONG = 2
"""After this many times `hung_step_s` in one step, the process ends and a supervisor restarts it."""


@contextmanager
def _noted(refusals: list[StoreUnavailable]) -> Generator[None]:
    """Collect a refusal of Redis for one queue, so that the other queues are still served."""
    try:
        yield
    except StoreUnavailable as error:
        if not error.is_refused:
            raise
        refusals.append(error)


class Heartbeat(threading.Thread):
    """Beats every quarter of a lease or sooner; a failed beat is repeated at the next one.

    Leases are renewed for running jobs and for those that wait for the preparer or the engine, but
    not for an engine that hangs or has died: its jobs go to another worker. The lost lease counts
    as an attempt, so that a job that kills engines does not live for ever.
    """

    def __init__(
        self,
        *,
        served_queues: Mapping[str, ServedQueue],
        claimed: ClaimedJobs,
        jobs: WorkerQueue,
        announcer: Announcer,
        settings: Settings,
        hooks: Hooks,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._served_queues = served_queues
        self._claimed = claimed
        self._jobs = jobs
        self._announcer = announcer
        self._settings = settings
        self._hooks = hooks
        self._pause_s = self._next_s = settings.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._closing = threading.Event()
        self._hung: set[str] = set()
        self._announced_s = self._heads_reported_s = float("-inf")
        self._lost_heads: dict[str, list[str]] = {}
        self._away = False
        self._beaten_s = time.monotonic()
        self._awake_since_s = self._hurried_until_s = float("-inf")

    def close(self) -> None:
        """Stop beating."""
        self._closing.set()

    def announce_soon(self) -> None:
        """Announce the card again with the next beat."""
        self._announced_s = float("-inf")

    def run(self) -> None:
        """Beat until closed."""
        while True:
            try:
                self.beat()
            except (redis.RedisError, PenstockError) as error:
                if not self._away:
                    logger.warning("Redis does not answer, continuing without it: %s", error)
                self._away = True
            except Exception:
                logger.exception("A heartbeat failed")
            else:
                if self._away:
                    logger.warning("Redis answers again")
                self._away = False
            self._beaten_s = time.monotonic()
            if self._closing.wait(self._next_s):
                return

    def beat(self) -> None:
        """Watch the engines, renew leases, announce the worker (every `heartbeat_s`), and reap.

        The next beat comes early if a lease is about to end: its worker is dead. Some more follow
        closely.
        """
        self._next_s = self._pause_s
        now_s = time.monotonic()
        if now_s - self._beaten_s > ASLEEP_S + self._pause_s:
            self._awake_since_s = now_s
        healthy = [served for served in self._served_queues.values() if self._is_healthy(served)]
        # Writing tokens also renews, so the leases of running jobs are seldom due here.
        claimed = self._claimed.leased_before(time.monotonic() - self._pause_s)
        refusals: list[StoreUnavailable] = []
        for served in healthy:
            with _noted(refusals):
                self._renew(served, [job for job in claimed if job.served is served])
        now_s = time.monotonic()
        announces = now_s - self._announced_s >= self._settings.heartbeat_s
        if announces:
            self._announced_s = now_s
            # No job for an engine that hangs: it would be lost with its lease.
            self._hooks.rest(self._announcer.announce(self._hooks.card()) or bool(self._hung))
        # After the renewal, so that leases that ran out while Redis was away are kept.
        ends_s: list[float | None] = []
        for queue in self._served_queues:
            with _noted(refusals):
                ends_s.append(self._jobs.reap(queue).next_end_s)
        for served in healthy:
            self._hooks.look_for_returned(served)
        if announces:
            self._report_heads(refusals)
        self._next_s = self._until_next([left_s for left_s in ends_s if left_s is not None])
        if refusals:
            raise refusals[0]

    def _report_heads(self, refusals: list[StoreUnavailable]) -> None:
        """Report which prompts and adapters have been dropped, and from time to time that they have others.

        Last in a beat: nothing depends on it. What cannot be reported now is reported later.
        """
        due = self._announced_s - self._heads_reported_s >= HEADS_RENEWED_S
        if due:
            self._heads_reported_s = self._announced_s
        for served in self._served_queues.values():
            lost = [*self._lost_heads.get(served.queue, ()), *served.lost_heads()]
            self._lost_heads[served.queue] = lost[-MOST_HEADS:]
            if lost or due:
                with _noted(refusals):
                    self._jobs.forget_heads(served.queue, self._lost_heads[served.queue])
                    del self._lost_heads[served.queue]

    def _until_next(self, ends_s: list[float]) -> float:
        """Return the pause (s) before the next beat, given when the queues' next leases end."""
        now_s = time.monotonic()
        left_s = min(ends_s, default=self._pause_s)
        if left_s < self._pause_s:
            self._hurried_until_s = now_s + left_s + HURRY_S
        pause_s = HURRIED_PAUSE_S if now_s < self._hurried_until_s else self._pause_s
        return max(min(pause_s, left_s, self._pause_s), SHORTEST_PAUSE_S)

    def _renew(self, served: ServedQueue, claimed: list[ClaimedJob]) -> None:
        if not claimed:
            return
        epochs = {job.claim.job.id: job.claim.epoch for job in claimed}
        now_s = time.monotonic()
        refused = {refusal.job_id for refusal in self._jobs.renew(served.queue, epochs)}
        self._claimed.leased([job.attempt_id for job in claimed], now_s)
        for job in claimed:
            if job.claim.job.id in refused:
                self._hooks.lose(job)

    def _is_healthy(self, served: ServedQueue) -> bool:
        failure = served.engine.failure
        if failure is not None:
            self._hooks.engine_broke(served, f"its engine has died: {failure}")
            return False
        # A process that was itself stopped cannot know whether its engine hangs.
        stalled_s = min(served.stalled_s(), time.monotonic() - self._awake_since_s)
        if stalled_s <= served.hung_after_s(self._settings.hung_step_s):
            if served.queue in self._hung:
                self._hung.discard(served.queue)
                self.announce_soon()
                logger.warning("The engine of %s goes on again", served.queue)
            return True
        if served.queue not in self._hung:
            self._hung.add(served.queue)
            self.announce_soon()
            logger.error(
                "The engine of %s has been in one step for %.0f s; its leases are not renewed",
                served.queue,
                stalled_s,
            )
        if stalled_s > self._settings.hung_step_s * HUNG_FOR_LONG:
            self._hooks.engine_broke(served, f"its engine has hung for {stalled_s:.0f} s")
        return False
