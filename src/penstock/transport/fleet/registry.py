"""Live workers and the models that they serve: the API's side."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.contract.worker import BY_READINESS, FASTCHAT, ModelCard, WorkerCard
from penstock.errors import NoWorker, StoreUnavailable, UnknownModel
from penstock.transport.fleet.announcer import Announcer
from penstock.transport.fleet.served import Served, by_name, with_adapters
from penstock.transport.fleet.store_reader import REFRESH_S, Reading, StoreReader, home_first
from penstock.transport.store.grouped import Stores, stores_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from penstock.clock import FleetClock
    from penstock.contract.worker import ModelStatus
    from penstock.settings import Settings

__all__ = ["REFRESH_S", "Announcer", "Registry", "Served"]

ASSUMED_TOKENS_PER_S: Final = {"cuda": 1_000.0, "xpu": 300.0, "cpu": 50.0}
"""Tokens/s assumed of a worker, by device, until its speed has been measured."""


class View(msgspec.Struct, frozen=True):
    """The fleet; `now_s` is when the first of its readings was made.

    `ends_s` (monotonic) is when the oldest of its readings becomes too old. `adapters` are the
    queues of each adapter, which `by_name` has too.
    """

    ends_s: float
    now_s: float
    workers: tuple[WorkerCard, ...]
    served: tuple[Served, ...]
    by_name: dict[str, list[Served]]
    """By a model's name, its aliases and its queues' names."""
    adapters: dict[str, list[Served]]


def _merged(readings: Sequence[Reading], life_s: float) -> View | None:
    """Return one view of the readings of several Redis; None without any."""
    if not readings:
        return None
    now_s = readings[0].now_s
    served = [
        queue
        if reading.now_s == now_s
        else msgspec.structs.replace(queue, seen_s=queue.seen_s + now_s - reading.now_s)
        for reading in readings
        for queue in reading.served
    ]
    adapters = with_adapters(served, [one for reading in readings for one in reading.adapters])
    return View(
        ends_s=min(reading.read_s for reading in readings) + life_s,
        now_s=now_s,
        workers=tuple(worker for reading in readings for worker in reading.workers),
        served=tuple(served),
        by_name=adapters | by_name(served),
        adapters=adapters,
    )


class Registry:
    """The API's view of the fleet, in one Redis or several. Owned by one event loop.

    While a Redis is away, what it had stays valid for up to `settings.redis_patience_s`.
    """

    def __init__(self, redis: redis.asyncio.Redis | Stores, settings: Settings) -> None:
        stores = stores_of(redis)
        self._grace_s = settings.worker_grace_s
        self._most_waiting = settings.max_waiting_jobs
        self._standby = settings.standby_queues
        self._view_life_s = settings.redis_patience_s
        self._readers = [
            self._reader(client, its_clock, stores, settings)
            for client, its_clock in zip(stores.all(), stores.clocks.all(), strict=True)
        ]
        self._view: View | None = None
        self._picked: dict[str, int] = {}
        self._best_tokens_per_s: dict[tuple[str, int], float] = {}

    def _reader(
        self,
        client: redis.asyncio.Redis,
        its_clock: FleetClock,
        stores: Stores,
        settings: Settings,
    ) -> StoreReader:
        def owns(queue: str) -> bool:
            return stores.of(queue) is client

        return StoreReader(
            client,
            settings,
            list(filter(owns, self._standby)),
            owns=owns,
            its_clock=its_clock,
            on_read=self._take,
        )

    async def start(self) -> None:
        """Refresh now, without an error if Redis is away, and then every second."""
        for failure in filter(None, await home_first(self._readers, StoreReader.start)):
            raise failure

    async def stop(self) -> None:
        """Stop refreshing."""
        await asyncio.gather(*(reader.stop() for reader in self._readers))

    async def refresh(self) -> None:
        """Read the fleet again.

        :raises redis.exceptions.RedisError: no Redis answers.
        """
        failures = await home_first(self._readers, StoreReader.refresh)
        if all(failures):
            raise failures[0] or RuntimeError

    def _take(self, reading: Reading) -> None:
        """Take a Redis's new reading into the view. Called by its reader."""
        for queue in reading.served:
            fleet = (queue.card.queue, len(queue.workers))
            best = self._best_tokens_per_s.get(fleet, 0.0)
            self._best_tokens_per_s[fleet] = max(queue.load.decode_tokens_per_s, best)
            self._picked.pop(queue.card.queue, None)
        self._view = self._merge()

    def _merge(self) -> View | None:
        readings = (reader.fresh(self._view_life_s) for reader in self._readers)
        return _merged([reading for reading in readings if reading], self._view_life_s)

    def _fresh_view(self) -> View | None:
        if self._view is not None and time.monotonic() > self._view.ends_s:
            self._view = self._merge()
        return self._view

    def _settles_in_s(self) -> float:
        """Return for how many seconds workers may still be announcing themselves somewhere."""
        return max(reader.age.settles_in_s() for reader in self._readers)

    def _sees_all(self) -> bool:
        return all(reader.fresh(self._view_life_s) for reader in self._readers)

    def workers(self) -> tuple[WorkerCard, ...]:
        """Return every live worker, draining ones too; none if Redis has been away for long."""
        view = self._fresh_view()
        return view.workers if view else ()

    def known(self) -> tuple[Served, ...]:
        """Return every queue that was announced within a day or stands by, served or not.

        :raises StoreUnavailable: Redis has been away for too long to know.
        """
        view = self._fresh_view()
        if view is None:
            raise StoreUnavailable("Redis does not answer", retry_after_s=REFRESH_S)
        return view.served

    def served(self) -> tuple[Served, ...]:
        """Return every queue that a live worker serves, with its load."""
        view = self._fresh_view()
        return tuple(queue for queue in view.served if queue.workers) if view else ()

    def models(self) -> tuple[ModelCard, ...]:
        """Return the card of every queue that a live worker serves or that stands by.

        Their adapters' cards follow.
        """
        view = self._fresh_view()
        if view is None:
            return ()
        adapted = [queue for queues in view.adapters.values() for queue in queues]
        return tuple(
            queue.card
            for queue in (*view.served, *adapted)
            if queue.workers or queue.card.queue in self._standby
        )

    def status_of(self, card: ModelCard) -> ModelStatus:
        """Return whether some worker has a model in memory; "on_demand" if no worker lives."""
        if card.backend == FASTCHAT:
            return "loaded"
        name, view = card.parent or card.name, self._fresh_view()
        queues = [queue for queue in view.served if queue.card.name == name] if view else []
        statuses: list[ModelStatus] = [
            worker.status_of(queue.card.queue) for queue in queues for worker in queue.workers
        ]
        return min(statuses, key=BY_READINESS.index) if statuses else "on_demand"

    def adapters(self) -> dict[str, list[str]]:
        """Return the names of each queue's adapters, sorted; a queue without any is left out."""
        view = self._fresh_view()
        names: dict[str, list[str]] = {}
        for name, queues in sorted(view.adapters.items()) if view else ():
            for queue in queues:
                names.setdefault(queue.card.queue, []).append(name)
        return names

    def resolve(self, name: str) -> tuple[Served, ...]:
        """Return the queues that serve a model, found by its name, an alias or a queue's name.

        Only live queues if there are any; otherwise those that stand by, or whose last worker left
        within the grace time.

        :raises UnknownModel: no worker has announced it within a day.
        :raises NoWorker: its last worker left longer ago than the grace time, or the store is new
            or has lost its data and workers are still announcing themselves.
        :raises StoreUnavailable: Redis has been away for too long to know.
        """
        view = self._fresh_view()
        if view is None:
            raise StoreUnavailable("Redis does not answer", retry_after_s=REFRESH_S)
        queues = view.by_name.get(name)
        if not queues:
            if not self._sees_all():
                raise StoreUnavailable(
                    f"the Redis that may have the model {name!r} does not answer",
                    retry_after_s=REFRESH_S,
                )
            left_s = self._settles_in_s()
            if left_s > 0:
                raise NoWorker(
                    f"the model {name!r} is not known yet: workers are announcing themselves",
                    retry_after_s=left_s,
                )
            raise UnknownModel(f"the model {name!r} does not exist")
        live = tuple(queue for queue in queues if queue.workers)
        recent = tuple(
            queue
            for queue in queues
            if view.now_s - queue.seen_s <= self._grace_s or queue.card.queue in self._standby
        )
        if not live and not recent:
            raise NoWorker(f"no worker serves the model {name!r} now", retry_after_s=self._grace_s)
        return live or recent

    def pick(self, name: str) -> ModelCard:
        """Return the queue of a model with the shortest expected wait.

        :raises UnknownModel, NoWorker, StoreUnavailable: as `resolve`.
        """
        best = min(self.resolve(name), key=self._expected_wait)
        # Picks since the last refresh count, or one queue would get a whole burst.
        queue = best.card.queue
        self._picked[queue] = self._picked.get(queue, 0) + 1
        return best.card

    def has_room(self, card: ModelCard) -> bool:
        """Return whether a live queue of a model had room for a job at the last look."""
        base = card.parent or card.name
        return any(
            queue.card.name == base and queue.waiting_jobs < self._most_waiting
            for queue in self.served()
        )

    def other_queues(self, card: ModelCard) -> tuple[str, ...]:
        """Return the other live queues of the same model, shortest wait first.

        Another version that shares only an alias with it is not the same model.
        """
        view = self._fresh_view()
        adapted = () if view is None else view.adapters.get(card.name, ())
        others = [
            queue
            for queue in (adapted if card.adapter else self.served())
            if queue.workers
            and queue.card.name == card.name
            and queue.card.parent == card.parent
            and queue.card.backend == card.backend
            and queue.card.queue != card.queue
        ]
        return tuple(queue.card.queue for queue in sorted(others, key=self._expected_wait))

    def _expected_wait(self, served: Served) -> tuple[float, float]:
        """Return a key by which queues are compared for a further job; less is better.

        Jobs share a worker's tokens/s once its slots are full; before that, each gets a slot's
        share. Ties are decided by occupancy. A model that nobody has in memory counts as full.
        """
        queue = served.card.queue
        assumed = ASSUMED_TOKENS_PER_S.get(served.card.device.split(".")[0], 1.0)
        workers = len(served.workers)
        tokens_per_s = self._best_tokens_per_s.get((queue, workers)) or assumed * max(workers, 1)
        slots = max(served.slots, served.card.slots, 1)
        jobs = served.load.running + served.load.waiting + served.waiting_jobs
        jobs += self._picked.get(queue, 0) + 1
        if not any(worker.status_of(queue) == "loaded" for worker in served.workers):
            jobs += slots  # it has to be loaded first
        return (max(jobs, slots) / tokens_per_s, jobs / slots)
