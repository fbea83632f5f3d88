"""The thread between a doorbell and the engine: claim, render, tokenise, read the journal."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from celery.utils.log import get_logger

from penstock.errors import StoreUnavailable
from penstock.models.text import rendering
from penstock.observability.logs import about
from workers.serving.claimed_jobs import Held, Outcome, Ticket
from workers.serving.long_texts import HUGE_BYTES, LONG_BYTES, LongTexts, size_of
from workers.serving.polling import MOST_AT_ONCE, Intake
from workers.serving.preparation import Preparation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from penstock.engine.sequence import SequenceRequest
    from penstock.settings import Settings
    from penstock.transport.jobs.queue import Claim, WorkerQueue
    from workers.serving.claimed_jobs import HeldJobs
    from workers.serving.hooks import Hooks
    from workers.serving.served_queue import Lane

logger = get_logger(__name__)


GATHER_S: Final = 0.003
"""Jobs of one claim go to the engine together as far as they are prepared within so long."""


class Preparer(threading.Thread):
    """Claims jobs for free slots and prepares them, so that no request has a thread of its own.

    A prompt that cannot be served becomes a `Failed` event here, before the engine sees it.
    """

    def __init__(
        self,
        *,
        lanes: Mapping[str, Lane],
        held: HeldJobs,
        jobs: WorkerQueue,
        store: redis.Redis,
        settings: Settings,
        hooks: Hooks,
    ) -> None:
        super().__init__(name="preparer", daemon=True)
        self._lanes = lanes
        self._held = held
        self._jobs = jobs
        self._preparation = Preparation(store=store, settings=settings, hooks=hooks)
        self._long = LongTexts("long-prompts")
        self._hooks = hooks
        self._intakes = {
            queue: Intake(lane, held, hooks, is_only=len(lanes) == 1)
            for queue, lane in lanes.items()
        }
        self._inbox: SimpleQueue[Ticket | None] = SimpleQueue()
        self._freed: set[str] = set()
        self._in_hand: list[Held] = []  # what the look under way has claimed
        self._closing = False

    def put(self, ticket: Ticket) -> None:
        """Queue a ticket; never blocks."""
        self._inbox.put(ticket)

    def freed(self, queue: str) -> None:
        """Look into a queue that Celery does not consume: a slot is free. Any thread."""
        if self._intakes[queue].alone and queue not in self._freed:
            self._freed.add(queue)
            self._inbox.put(Ticket(queue, has_bell=False))

    def close(self) -> None:
        """Claim nothing more; tickets that were not looked at are put back."""
        self._closing = True
        self._inbox.put(None)

    def run(self) -> None:
        """Look into queues until closed."""
        if any(lane.card.has_chat_template for lane in self._lanes.values()):
            rendering.warm()
        while (ticket := self._next()) is not None:
            if not ticket.only_returned:
                # Before the look: what becomes free from now on asks for another.
                self._freed.discard(ticket.queue)
                self._intakes[ticket.queue].due_s = None
            if self._closing or self._hooks.resting:
                ticket.done(Outcome.PUT_BACK)
                continue
            try:
                self._look_for(ticket)
            except StoreUnavailable as error:
                logger.warning("No job claimed from %s: %s", ticket.queue, error)
                self._give_up(ticket, Outcome.PUT_BACK)
            except Exception:
                logger.exception("Nothing is taken up from %s", ticket.queue)
                self._give_up(ticket, Outcome.EMPTY)
            self._in_hand.clear()
        self._long.close()
        self._hooks.claiming_ended()

    def _next(self) -> Ticket | None:
        """Wait for a ticket, or until a look is due."""
        due = {i.due_s: queue for queue, i in self._intakes.items() if i.due_s is not None}
        if not due:
            return self._inbox.get()
        first_s = min(due)
        try:
            return self._inbox.get(timeout=max(0.0, first_s - time.monotonic()))
        except Empty:
            return Ticket(due[first_s], has_bell=False)

    def _look_for(self, ticket: Ticket) -> None:
        """Claim what a ticket's queue has for us, and take it up."""
        if ticket.only_returned:
            claim = self._jobs.claim(ticket.queue, only_returned=True)
            if claim is None:
                ticket.done(Outcome.EMPTY)
            else:
                ticket.claimed()
                self._take_up([self._hold(claim, ticket)])
            return
        intake = self._intakes[ticket.queue]
        free = intake.free
        if free <= 0:
            ticket.done(Outcome.FULL)
            return
        found = self._jobs.claim_many(
            ticket.queue,
            min(free, MOST_AT_ONCE),
            least=int(ticket.has_bell),
            held=intake.lane.slots - free,
        )
        if not found.claims:
            ticket.done(Outcome.EMPTY)
            intake.found_none(found.waiting)
            return
        ticket.claimed()
        others = Ticket(ticket.queue, has_bell=False, rung_ns=ticket.rung_ns)
        # All are held, and so their leases renewed, before the first is prepared.
        held = [
            self._hold(claim, others if place else ticket)
            for place, claim in enumerate(found.claims)
        ]
        intake.claimed(len(held), found.waiting)
        self._take_up(held)

    def _give_up(self, ticket: Ticket, outcome: Outcome) -> None:
        """End a look that failed. What it holds is let go: leases run out, and others have the jobs."""
        for held in self._in_hand:
            self._hooks.lose(held)
        if all(held.ticket is not ticket for held in self._in_hand):
            ticket.done(outcome)
        if not ticket.only_returned:
            self._intakes[ticket.queue].let_go()

    def _hold(self, claim: Claim, ticket: Ticket) -> Held:
        # An older attempt is lost by now. It goes first: where Redis has forgotten its claim, the
        # new one has the same epoch, and so the same name.
        older = self._held.of_job(claim.job.id)
        if older is not None:
            self._hooks.lose(older)
        number = self._held.number(claim)
        held = Held(claim, self._lanes[ticket.queue], ticket, number=number)
        self._held.add(held)
        self._in_hand.append(held)
        return held

    def _take_up(self, held: Sequence[Held]) -> None:
        """Prepare jobs and hand them to their engine, together unless that takes long."""
        engine = held[0].lane.engine
        ready: list[SequenceRequest] = []
        began_s = time.monotonic()
        for one in held:
            request = self._prepared(one)
            if request is not None:
                ready.append(request)
            if time.monotonic() - began_s > GATHER_S or one is held[-1]:
                # Without those that were lost meanwhile.
                ready = [r for r in ready if self._held.get(r.attempt_id) is not None]
                if ready:
                    engine.submit(*ready)
                ready.clear()
        for one in held:  # now that nobody waits for it
            _tell(one.claim)

    def _prepared(self, held: Held) -> SequenceRequest | None:
        """Return what the engine is asked; None for a job that has failed, is let go, or is long."""
        work = held.claim.job.work
        size = size_of(work.prompt, work.sampling.structure)
        if size <= LONG_BYTES:
            try:
                with rendering.quickly():
                    return self._preparation.prepared(held)
            except rendering.TakesLong:
                size = HUGE_BYTES + 1
        self._long.put(lambda: self._prepare_long(held), size)
        return None

    def _prepare_long(self, held: Held) -> None:
        """Prepare a job that others must not wait for; not in this thread."""
        if self._held.get(held.attempt_id) is None:
            return
        request = self._preparation.prepared(held)
        if request is None or self._held.get(held.attempt_id) is None:
            return
        try:
            held.lane.engine.submit(request)
        except Exception:
            logger.exception("Job %s is let go", held.claim.job.id)
            self._hooks.lose(held)


def _tell(claim: Claim) -> None:
    """Note a claim in the log."""
    job = claim.job
    with about(request_id=job.request_id, job_id=job.id, queue=job.queue):
        logger.info(
            "Job %s of request %s, attempt %d, from token %d",
            job.id, job.request_id or "-", claim.attempt, claim.next_index,
        )  # fmt: skip
