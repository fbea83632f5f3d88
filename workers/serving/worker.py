"""A worker without Celery: its queues, its jobs, its threads, and its drain.

`Worker.drain` is all that a drain does to jobs. When it begins and ends is Celery's part:
`workers.delivery.bootsteps.Serving`. The drain that an operator requests is `Worker.rest`, which
keeps the worker.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import redis
from celery.utils.log import get_logger

from penstock.clock import clock
from penstock.errors import PenstockError
from penstock.observability.logs import identify
from penstock.transport.fleet.registry import Announcer
from penstock.transport.jobs.demand import LoadOrders
from penstock.transport.jobs.queue import WorkerQueue
from workers.serving.answer_exchange import AnswerExchange
from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs, Outcome, Ticket
from workers.serving.heartbeat import Heartbeat
from workers.serving.identity import card_of
from workers.serving.on_demand.residents import Residents
from workers.serving.overflow_slots import OverflowSlots
from workers.serving.preparer import Preparer
from workers.serving.publisher import Publisher
from workers.serving.tokenizer_service import TokenizerService
from workers.serving.watchers import watchers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.contract.worker import WorkerCard
    from penstock.engine.events import AttemptEvent
    from penstock.settings import Settings
    from workers.serving.hooks import Delivery
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)

HAND_BACK_S = 5.0
"""How long the last tokens may take to be written before jobs are handed back without them."""

_POLL_S = 0.05


class Worker:
    """Owns the preparer, publisher, heartbeat and tokenizer threads, and starts the engines.

    It is the `Hooks` of its threads. A job is leased from its claim on. It leaves by `end` (its
    terminal event is stored), by `lose` (it is over, or another worker has it) or by a drain that
    hands it back.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: redis.Redis,
        worker_id: str,
        open_queues: Callable[[Callable[..., None]], Iterable[ServedQueue]],
    ) -> None:
        """Make every part; `open_queues` gets the function that an engine's sink has to call."""
        self.worker_id = worker_id
        identify(worker=worker_id)
        self.exit_code = 0
        self._settings = settings
        self._started_ms = clock.now_ms()
        self._draining = False
        self._resting = False
        self._broken: set[str] = set()
        self._delivery: Delivery | None = None
        self._jobs = WorkerQueue(store, settings, worker_id)
        self._announcer = Announcer(store, settings)
        self._claimed = ClaimedJobs()
        self._publisher = Publisher(claimed=self._claimed, jobs=self._jobs, hooks=self)
        queues = {served.queue: served for served in open_queues(self.publish)}
        self.served_queues: dict[str, ServedQueue] = queues
        self._watchers, self.metrics_url = watchers_of(settings, self._claimed, worker_id, queues)
        self._preparer = Preparer(
            served_queues=self.served_queues,
            claimed=self._claimed,
            jobs=self._jobs,
            store=store,
            settings=settings,
            hooks=self,
        )
        self._heartbeat = Heartbeat(
            served_queues=self.served_queues,
            claimed=self._claimed,
            jobs=self._jobs,
            announcer=self._announcer,
            settings=settings,
            hooks=self,
        )
        self._overflow = OverflowSlots(self.served_queues.values(), self)
        self._exchange = AnswerExchange(served_queues=queues, store=store, settings=settings)
        self._desk = TokenizerService(
            served_queues=self.served_queues,
            store=store,
            worker_id=worker_id,
            called=lambda queue: self.take(Ticket(queue, has_bell=False, called=True)),
        )
        self._residents = Residents(
            served_queues=self.served_queues,
            claimed=self._claimed,
            jobs=self._jobs,
            orders=LoadOrders(store, settings, worker_id),
            publisher=self._publisher,
            settings=settings,
            hooks=self,
        )

    @property
    def slots(self) -> int:
        """How many jobs all queues together run at once."""
        return sum(served.slots for served in self.served_queues.values())

    def card(self) -> WorkerCard:
        """Describe this worker as of now."""
        return card_of(
            self.worker_id,
            self.served_queues,
            started_ms=self._started_ms,
            draining=self._draining or self._resting,
        )

    def start(self, delivery: Delivery | None = None) -> None:
        """Start engines and threads; without `delivery`, jobs come by `take` alone."""
        self._delivery = delivery
        # The models stay: a garbage collection that scanned them would delay every stream.
        gc.collect()
        gc.freeze()
        for served in self.served_queues.values():
            served.start()
        first = (self._publisher, self._preparer, self._desk)
        for thread in (*first, self._heartbeat, self._exchange, self._residents):
            thread.start()

    @property
    def draining(self) -> bool:
        """Whether it claims no more jobs."""
        return self._draining

    @property
    def resting(self) -> bool:
        """Whether an operator has paused claiming; running jobs continue."""
        return self._resting

    def takes(self, queue: str) -> bool:
        """Return whether jobs of a queue are claimed, as far as the queue itself decides it."""
        served = self.served_queues.get(queue)
        return served is not None and served.open

    def take(self, ticket: Ticket) -> None:
        """Look for jobs for the free slots; reports by `ticket.done`, never blocks."""
        self._preparer.put(ticket)

    def publish(self, events: list[AttemptEvent]) -> None:
        """See `Hooks`."""
        for watcher in self._watchers:
            watcher.see(events)
        self._publisher.put(events)

    def taken(self) -> dict[str, int]:
        """Return how many slots of each queue have a job."""
        return {queue: self._claimed.taken(queue) for queue in self.served_queues}

    def lose(self, claimed: ClaimedJob) -> None:
        """Give up an attempt whose job is over or another worker's; nothing more is written."""
        if self._claimed.pop(claimed.attempt_id) is not None:
            for watcher in self._watchers:
                watcher.drop(claimed)
            claimed.served.engine.abort([claimed.attempt_id])
            self._let_go(claimed)

    def begin_drain(self) -> None:
        """Claim nothing more and announce that; running jobs go on. Cheap, repeatable."""
        if self._draining:
            return
        self._draining = True
        self._residents.close()
        self._heartbeat.announce_soon()
        self._desk.close()
        self._preparer.close()

    def drain(self, *, in_a_hurry: Callable[[], bool], pump: Callable[[], None]) -> None:
        """Finish what runs within `drain_s`, hand back the rest, and leave the registry.

        `in_a_hurry` ends the wait early; `pump` runs the calls that wait for the calling thread.
        """
        self.begin_drain()
        end = time.monotonic() + self._settings.drain_s
        while self._alive_jobs() and time.monotonic() < end and not in_a_hurry():
            self._claimed.wait_for_change(_POLL_S)
            pump()
        self.hand_back()
        pump()

    def hand_back(self) -> None:
        """Release the leased jobs at their last stored token, and stop all threads."""
        self.begin_drain()
        self._preparer.join(HAND_BACK_S)
        for claimed in self._alive_jobs():
            claimed.served.engine.abort([claimed.attempt_id])
        for served in self.served_queues.values():
            with suppress(TimeoutError):  # its later events are refused
                served.engine.stop(0 if served.queue in self._broken else HAND_BACK_S)
        self._publisher.flush(HAND_BACK_S)
        self._publisher.close()
        self._exchange.close()
        self._heartbeat.close()
        self._heartbeat.join(HAND_BACK_S)
        left = self._alive_jobs()
        try:
            for claimed in left:
                self._jobs.release(claimed.served.queue, claimed.claim.job.id, claimed.claim.epoch)
            self._announcer.withdraw(self.worker_id, self.served_queues)
        except (redis.RedisError, PenstockError) as error:
            logger.warning("%d jobs are left to their leases: %s", len(left), error)
        else:
            if left:
                logger.warning("Handed back %d unfinished jobs", len(left))
        for claimed in self._claimed.all():
            self.end(claimed)
        for watcher in self._watchers:
            watcher.close()

    def _alive_jobs(self) -> list[ClaimedJob]:
        """Return the leased jobs whose engine still works.

        The others are left to their leases, which counts as an attempt: one of them may have
        broken the engine.
        """
        return [
            claimed for claimed in self._claimed.all() if claimed.served.queue not in self._broken
        ]

    def end(self, claimed: ClaimedJob) -> None:
        """See `Hooks`."""
        if self._claimed.pop(claimed.attempt_id) is not None:
            self._let_go(claimed)

    def _let_go(self, claimed: ClaimedJob) -> None:
        claimed.ticket.done(Outcome.ENDED)
        self._preparer.freed(claimed.served.queue)

    def look_for_returned(self, served: ServedQueue) -> None:
        """See `Hooks`; a free slot gets such a job anyway."""
        if self._draining or self._resting or not served.open:
            return
        if self._claimed.taken(served.queue) >= served.slots:
            self._overflow.look(served.queue)

    def rest(self, wanted: bool) -> None:
        """See `Hooks`."""
        if wanted == self._resting:
            return
        self._resting = wanted
        logger.warning("Worker %s %s", self.worker_id, "rests" if wanted else "goes on")
        self._heartbeat.announce_soon()
        if self._delivery is not None:
            self._delivery.rest_changed()
        for queue in self.served_queues:
            self._preparer.freed(queue)

    def consume(self, queue: str, wanted: bool) -> None:
        """See `Hooks`."""
        if self._delivery is not None:
            self._delivery.consume(queue, wanted)

    def opened(self, served: ServedQueue) -> None:
        """See `Hooks`."""
        self._heartbeat.announce_soon()
        if self._delivery is not None:
            self._delivery.opened(served.queue, served.open)

    def claiming_ended(self) -> None:
        """See `Hooks`."""
        if self._delivery is not None:
            self._delivery.wake()

    def engine_broke(self, served: ServedQueue, reason: str) -> None:
        """See `Hooks`."""
        if served.queue in self._broken:
            return
        self._broken.add(served.queue)
        self.exit_code = os.EX_SOFTWARE
        logger.critical("Worker %s ends: %s (queue %s)", self.worker_id, reason, served.queue)
        self.begin_drain()
        if self._delivery is not None:
            self._delivery.request_stop()
