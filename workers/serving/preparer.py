"""The thread between a doorbell and the engine: claim, render, tokenise, read the journal."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from celery.utils.log import get_logger

from penstock.errors import StoreUnavailable
from penstock.models.text import rendering
from penstock.observability.logs import about
from workers.serving.claimed_jobs import ClaimedJob, Outcome, Ticket
from workers.serving.long_texts import HUGE_BYTES, LONG_BYTES, LongTexts, size_of
from workers.serving.polling import MOST_AT_ONCE, Polling
from workers.serving.preparation import Preparation, has_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from penstock.engine.sequence import SequenceRequest
    from penstock.settings import Settings
    from penstock.transport.jobs.queue import Claim, WorkerQueue
    from workers.serving.claimed_jobs import ClaimedJobs
    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)


GATHER_S: Final = 0.003
"""Jobs of one claim that are prepared within this time go to the engine together."""


class Preparer(threading.Thread):
    """Claims jobs for free slots and prepares them, so that no request has a thread of its own.

    A prompt that cannot be served becomes a `Failed` event here, before the engine sees it.
    """

    def __init__(
        self,
        *,
        served_queues: Mapping[str, ServedQueue],
        claimed: ClaimedJobs,
        jobs: WorkerQueue,
        store: redis.Redis,
        settings: Settings,
        hooks: Hooks,
    ) -> None:
        super().__init__(name="preparer", daemon=True)
        self._served_queues = served_queues
        self._claimed = claimed
        self._jobs = jobs
        self._preparation = Preparation(store=store, settings=settings, hooks=hooks)
        self._long = LongTexts("long-prompts")
        self._hooks = hooks
        self._pollings = {
            queue: Polling(served, claimed, hooks, is_only=len(served_queues) == 1)
            for queue, served in served_queues.items()
        }
        self._inbox: SimpleQueue[Ticket | None] = SimpleQueue()
        self._freed: set[str] = set()
        self._in_hand: list[ClaimedJob] = []  # claimed by the current ticket
        self._closing = False

    def put(self, ticket: Ticket) -> None:
        """Queue a ticket; never blocks."""
        self._inbox.put(ticket)

    def freed(self, queue: str) -> None:
        """Poll a queue that Celery does not consume: a slot is free. Any thread."""
        if self._pollings[queue].alone and queue not in self._freed:
            self._freed.add(queue)
            self._inbox.put(Ticket(queue, has_bell=False))

    def close(self) -> None:
        """Claim nothing more; tickets that are still queued are put back."""
        self._closing = True
        self._inbox.put(None)

    def run(self) -> None:
        """Look into queues until closed."""
        if any(served.card.has_chat_template for served in self._served_queues.values()):
            rendering.warm()
        while (ticket := self._next()) is not None:
            if not ticket.only_returned:
                # Before the claim: a slot that becomes free from now on needs another one.
                self._freed.discard(ticket.queue)
                self._pollings[ticket.queue].due_s = None
                ticket = self._with_debt(ticket)
            if self._closing or self._hooks.resting or not self._served_queues[ticket.queue].open:
                ticket.done(Outcome.PUT_BACK)
                continue
            try:
                self._look_for(ticket)
            except StoreUnavailable as error:
                logger.warning("No job claimed from %s: %s", ticket.queue, error)
                self._give_up(ticket, Outcome.PUT_BACK)
            except Exception:
                logger.exception("No job claimed from %s", ticket.queue)
                self._give_up(ticket, Outcome.EMPTY)
            self._in_hand.clear()
        self._long.close()
        self._hooks.claiming_ended()

    def _with_debt(self, ticket: Ticket) -> Ticket:
        """Return a ticket that also stands for a job that was left to another worker, if one was."""
        polling = self._pollings[ticket.queue]
        if not polling.owed:
            return ticket
        polling.owed = False
        return replace(ticket, called=True)

    def _next(self) -> Ticket | None:
        """Wait for a ticket, or until a poll is due."""
        due = {i.due_s: queue for queue, i in self._pollings.items() if i.due_s is not None}
        if not due:
            return self._inbox.get()
        first_s = min(due)
        try:
            return self._inbox.get(timeout=max(0.0, first_s - time.monotonic()))
        except Empty:
            return Ticket(due[first_s], has_bell=False)

    def _look_for(self, ticket: Ticket) -> None:
        """Claim jobs from a ticket's queue, and prepare them."""
        if ticket.only_returned:
            claim = self._jobs.claim(ticket.queue, only_returned=True)
            if claim is None:
                ticket.done(Outcome.EMPTY)
            else:
                ticket.claimed()
                self._prepare_all([self._register(claim, ticket)])
            return
        polling = self._pollings[ticket.queue]
        free = polling.free
        if free <= 0:
            ticket.done(Outcome.FULL)
            return
        claims = self._jobs.claim_many(
            ticket.queue,
            min(free, MOST_AT_ONCE),
            least=int(ticket.has_bell or ticket.called),
            held=polling.served.slots - free,
            slots=polling.served.slots,
            token_s=polling.served.engine.load().prefill_token_ms / 1000,
        )
        if not claims.claims:
            ticket.done(Outcome.EMPTY)
            polling.found_none(claims.waiting)
            polling.left(claims.again_s)
            return
        ticket.claimed()
        others = Ticket(ticket.queue, has_bell=False, rung_ns=ticket.rung_ns)
        # All are registered, so that their leases are renewed, before the first is prepared.
        claimed = [
            self._register(claim, others if number else ticket)
            for number, claim in enumerate(claims.claims)
        ]
        polling.claimed(len(claimed), claims.waiting)
        polling.left(claims.again_s)
        self._prepare_all(claimed)

    def _give_up(self, ticket: Ticket, outcome: Outcome) -> None:
        """End a ticket that failed. Its jobs are lost: their leases run out, and other workers claim them."""
        for claimed in self._in_hand:
            self._hooks.lose(claimed)
        if all(claimed.ticket is not ticket for claimed in self._in_hand):
            ticket.done(outcome)
        if not ticket.only_returned:
            self._pollings[ticket.queue].let_go()

    def _register(self, claim: Claim, ticket: Ticket) -> ClaimedJob:
        # An older attempt has lost its lease. It goes first: if Redis has forgotten its claim, the
        # new one has the same epoch.
        older = self._claimed.of_job(claim.job.id)
        if older is not None:
            self._hooks.lose(older)
        number = self._claimed.number(claim)
        claimed = ClaimedJob(claim, self._served_queues[ticket.queue], ticket, number=number)
        self._claimed.add(claimed)
        self._in_hand.append(claimed)
        return claimed

    def _prepare_all(self, claimed: Sequence[ClaimedJob]) -> None:
        """Prepare jobs and hand them to their engine, together unless that takes long."""
        engine = claimed[0].served.engine
        ready: list[SequenceRequest] = []
        began_s = time.monotonic()
        for job in claimed:
            request = self._prepared(job)
            if request is not None:
                ready.append(request)
            if time.monotonic() - began_s > GATHER_S or job is claimed[-1]:
                # Without jobs that were lost meanwhile.
                ready = [r for r in ready if self._claimed.get(r.attempt_id) is not None]
                if ready:
                    engine.submit(*ready)
                ready.clear()
        for job in claimed:  # after the engine has them: it does not wait for the log
            _log(job.claim)

    def _prepared(self, claimed: ClaimedJob) -> SequenceRequest | None:
        """Return the engine's request; None for a job that failed, was lost, or is prepared apart."""
        work = claimed.claim.job.work
        size = size_of(work.prompt, work.sampling.structure)
        if has_images(work.prompt) or _loads_adapter(claimed):
            size = HUGE_BYTES + 1
        if size <= LONG_BYTES:
            try:
                with rendering.quickly():
                    return self._preparation.prepared(claimed)
            except rendering.TakesLong:
                size = HUGE_BYTES + 1
        self._long.put(lambda: self._prepare_long(claimed), size)
        return None

    def _prepare_long(self, claimed: ClaimedJob) -> None:
        """Prepare a long job in a thread of its own, so that no other job waits for it."""
        if self._claimed.get(claimed.attempt_id) is None:
            return
        request = self._preparation.prepared(claimed)
        if request is None or self._claimed.get(claimed.attempt_id) is None:
            return
        try:
            claimed.served.engine.submit(request)
        except Exception:
            logger.exception("Job %s is left to its lease", claimed.claim.job.id)
            self._hooks.lose(claimed)


def _loads_adapter(claimed: ClaimedJob) -> bool:
    """Return whether preparing a job loads its adapter, which takes long."""
    adapter, adapters = claimed.claim.job.adapter, claimed.served.adapters
    return adapter is not None and adapters is not None and not adapters.has(adapter)


def _log(claim: Claim) -> None:
    """Write a claim into the log."""
    job = claim.job
    with about(request_id=job.request_id, job_id=job.id, queue=job.queue):
        logger.info(
            "Job %s of request %s, attempt %d, from token %d",
            job.id, job.request_id or "-", claim.attempt, claim.next_index,
        )  # fmt: skip
