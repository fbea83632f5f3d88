"""The thread that loads and unloads models by what waits for them."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Final

import redis
from celery.utils.log import get_logger

from penstock import freed_memory
from penstock.contract.events import Failed
from penstock.errors import ModelLoadFailed, PenstockError, StoreUnavailable, first_line
from penstock.transport.jobs.records import Row
from penstock.transport.store.connection import as_unavailable
from workers.serving.claimed_jobs import Ticket
from workers.serving.on_demand.absent_engine import AbsentEngine
from workers.serving.on_demand.choice import MIDDLE, Standing, next_change
from workers.serving.polling import MOST_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.settings import Settings
    from penstock.transport.jobs.demand import Demand, LoadOrders
    from penstock.transport.jobs.worker_queue import WorkerQueue
    from workers.serving.claimed_jobs import ClaimedJobs
    from workers.serving.hooks import Hooks
    from workers.serving.on_demand.model import OnDemand
    from workers.serving.publisher import Publisher
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)

LOOK_S: Final = 0.2
"""How often it looks at what waits."""
WRITE_S: Final = 5.0
"""How long the last tokens of an unloaded model may take to be written."""
STOP_S: Final = 60.0
"""How long the last step of an unloaded model may take."""


class Residents(threading.Thread):
    """Owns the `on_demand` of the served queues: what is in memory, and what takes its place.

    No job is claimed for a model that is not in memory: jobs wait in their queue, where deadlines
    and cancellations hold and other workers find them.
    """

    def __init__(
        self,
        *,
        served_queues: Mapping[str, ServedQueue],
        claimed: ClaimedJobs,
        jobs: WorkerQueue,
        orders: LoadOrders,
        publisher: Publisher,
        settings: Settings,
        hooks: Hooks,
    ) -> None:
        super().__init__(name="residents", daemon=True)
        self._queues = {
            queue: (served, served.on_demand)
            for queue, served in served_queues.items()
            if served.on_demand is not None
        }
        self._claimed = claimed
        self._jobs = jobs
        self._orders = orders
        self._publisher = publisher
        self._most = settings.resident_models
        self._drain_s = settings.drain_s
        self._most_tries = settings.max_attempts
        self._hooks = hooks
        self._closing = threading.Event()

    def close(self) -> None:
        """Load and unload nothing more; a load that has begun is not opened."""
        self._closing.set()

    def run(self) -> None:
        """Look, and load or unload, until closed; end at once without models on demand."""
        while self._queues and not self._closing.wait(LOOK_S):
            try:
                while not self._closing.is_set() and self.turn():
                    pass
            except (redis.RedisError, PenstockError) as error:
                as_unavailable(error)  # logs a refusal; the heartbeat reports Redis's absence
                self._closing.wait(1.0)
            except Exception:
                logger.exception("Models could not be looked after")
                self._closing.wait(1.0)

    def turn(self) -> bool:
        """Make the next change; False if there is none for now.

        :raises redis.RedisError: Redis is away, or refuses.
        """
        if self._hooks.resting:
            return False
        standings = [self._standing(queue, demand) for queue, demand in self._demands().items()]
        change = next_change(standings, time.monotonic(), most=self._most, fits=self._fits)
        if change is None:
            return False
        served, model = self._queues[change.queue]
        if change.loads:
            return self._load(served, model)
        self._unload(served, model)
        return True

    def _demands(self) -> dict[str, Demand | None]:
        """Return what waits in each queue; None if nothing does. Jobs of failed models are failed."""
        waiting = self._orders.waiting(list(self._queues))
        demands = {
            queue: self._demand(queue) if count else None for queue, count in waiting.items()
        }
        for queue, demand in demands.items():
            served, model = self._queues[queue]
            waits = model.status == "failed" and time.monotonic() < model.retry_s
            if waits and demand is not None and not demand.claiming and not demand.loaders:
                self._fail_waiting(served, model)
        return demands

    def _demand(self, queue: str) -> Demand | None:
        """Return what waits in a queue; None, with a line in the log, if Redis refuses to answer.

        A key of another type must not keep the other queues from being served.
        """
        try:
            return self._orders.demand(queue)
        except redis.ResponseError as error:
            as_unavailable(error)
            return None

    def _standing(self, queue: str, demand: Demand | None) -> Standing:
        served, model = self._queues[queue]
        now_s = time.monotonic()
        is_resident = model.status == "loaded"
        is_busy = is_resident and (bool(self._claimed.of(served)) or served.engine.busy())
        if is_busy or (is_resident and demand is not None):
            model.used_s = now_s
        return Standing(
            queue=queue,
            is_resident=is_resident,
            load_s=model.load_s,
            loaded_s=model.loaded_s,
            used_s=model.used_s,
            is_busy=is_busy,
            is_pinned=model.is_pinned,
            keep_alive_s=model.keep_alive_s,
            waiting=demand.waiting if demand else 0,
            oldest_s=min(demand.oldest_s, now_s - model.unloaded_s) if demand else 0.0,
            priority=demand.priority if demand and demand.priority >= 0 else MIDDLE,
            claiming=demand.claiming if demand else 0,
            loaders=demand.loaders if demand else 0,
            is_loading=demand.is_loading if demand else False,
            may_load=model.status != "failed" or now_s >= model.retry_s,
        )

    def _fits(self, queue: str) -> bool:
        _, model = self._queues[queue]
        return model.needed_bytes <= model.free_bytes()

    # Loading

    def _load(self, served: ServedQueue, model: OnDemand) -> bool:
        """Load a model and open its queue; return whether that, or its failure, has changed anything."""
        try:
            tries = self._orders.begin(served.queue)
        except redis.ResponseError as error:  # a key of another type: the others are still served
            as_unavailable(error)
            model.failed(f"Redis refuses its load: {first_line(error)}")
            return True
        if not tries:
            return False
        try:
            if tries > self._most_tries:
                why = f"loading it has ended {tries - 1} workers"
                raise ModelLoadFailed(why)  # noqa: TRY301 - handled like the load's own
            model.status = "loading"
            self._hooks.opened(served)
            began_s = time.monotonic()
            model.load(served)
        except Exception as error:
            if not isinstance(error, PenstockError):
                logger.debug("Loading %s failed", served.queue, exc_info=True)
            reason = error.message if isinstance(error, PenstockError) else first_line(error)
            self._failed(served, model, reason, tried=tries <= self._most_tries)
            return True
        self._orders.end(served.queue)
        if self._closing.is_set():
            return False
        served.start()
        model.loaded(time.monotonic() - began_s)
        served.open = True
        self._hooks.opened(served)
        self._hooks.take(Ticket(served.queue, has_bell=False, called=True))
        return True

    def _failed(self, served: ServedQueue, model: OnDemand, reason: str, *, tried: bool) -> None:
        logger.error("Queue %s: its model could not be loaded: %s", served.queue, reason)
        self._clear(served)
        model.failed(reason)
        self._hooks.opened(served)
        self._orders.end(served.queue, tried=tried)

    def _fail_waiting(self, served: ServedQueue, model: OnDemand) -> None:
        """End the waiting jobs of a model that nobody can load."""
        message = f"the model {served.card.name!r} could not be loaded: {model.error}"
        while not self._closing.is_set():
            claims = self._jobs.claim_many(
                served.queue, MOST_AT_ONCE, least=MOST_AT_ONCE, held=0
            ).claims
            if not claims:
                return
            rows = [
                Row(
                    claim.job.id,
                    claim.epoch,
                    Failed(claim.job.id, claim.next_index, ModelLoadFailed.code, message),
                )
                for claim in claims
            ]
            self._jobs.append(served.queue, rows)

    # Unloading

    def _unload(self, served: ServedQueue, model: OnDemand) -> None:
        """Let a model's jobs end, for as long as a drain may take, hand back the rest, and free it."""
        model.status = "unloading"
        served.open = False
        self._hooks.opened(served)
        self._await_preparer(served)
        end_s = time.monotonic() + self._drain_s
        while self._claimed.of(served) and time.monotonic() < end_s:
            if self._closing.wait(0.02):
                return
        left = self._claimed.of(served)
        served.engine.abort([job.attempt_id for job in left])
        try:
            served.engine.stop(STOP_S)
        except TimeoutError:
            self._hooks.engine_broke(served, "its engine did not stop to be unloaded")
            return
        self._publisher.flush(WRITE_S)
        self._hand_back(served)
        self._clear(served)
        model.unloaded()
        logger.info("Unloaded %s", served.queue)
        self._hooks.opened(served)
        try:
            self._jobs.forget_all_heads(served.queue)
        except StoreUnavailable as error:
            logger.warning("The heads of %s are left to their time: %s", served.queue, error)

    def _await_preparer(self, served: ServedQueue) -> None:
        """Wait until no claim is under way: the preparer takes tickets in turn, and puts this back."""
        passed = threading.Event()
        self._hooks.take(Ticket(served.queue, lambda _outcome: passed.set(), has_bell=False))
        while not passed.wait(LOOK_S) and not self._closing.is_set():
            pass

    def _hand_back(self, served: ServedQueue) -> None:
        left = self._claimed.of(served)
        for job in left:
            try:
                self._jobs.release(served.queue, job.claim.job.id, job.claim.epoch)
            except StoreUnavailable as error:
                logger.warning("Job %s is left to its lease: %s", job.claim.job.id, error)
            self._hooks.end(job)
        if left:
            logger.info("Handed back %d unfinished jobs of %s", len(left), served.queue)

    def _clear(self, served: ServedQueue) -> None:
        """Free a model's memory: its parts refer to each other, so that only a collection finds them.

        The worker's parts were frozen at its start, and are again afterwards.
        """
        served.engine = AbsentEngine()
        served.vision = served.adapters = served.store = None
        gc.unfreeze()
        freed_memory.collect()
        gc.freeze()
