"""Live workers and the models that they serve: the API's side."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from redis.exceptions import RedisError

from penstock.clock import clock
from penstock.contract.worker import ModelCard, WorkerCard
from penstock.errors import NoWorker, StoreUnavailable, UnknownModel
from penstock.transport import keys
from penstock.transport.fleet.announcer import MODEL_LIFE_S, Announcer
from penstock.transport.fleet.served import Served, by_name, by_queue, serve
from penstock.transport.fleet.standby import plain_card
from penstock.transport.fleet.store_age import StoreAge
from penstock.transport.store import contents

if TYPE_CHECKING:
    import redis.asyncio

    from penstock.settings import Settings

__all__ = ["Announcer", "Registry", "Served"]

REFRESH_S: Final = 1.0

ASSUMED_TOKENS_PER_S: Final = {"cuda": 1_000.0, "xpu": 300.0, "cpu": 50.0}
"""Tokens/s assumed of a worker, by device, until its speed has been measured."""

_log = logging.getLogger(__name__)
_worker_decoder = msgspec.json.Decoder(WorkerCard)
_model_decoder = msgspec.json.Decoder(ModelCard)


class View(msgspec.Struct, frozen=True):
    """The fleet as of `read_s` (monotonic); `now_s` is Redis's clock at that time."""

    read_s: float
    now_s: float
    workers: tuple[WorkerCard, ...]
    served: tuple[Served, ...]
    by_name: dict[str, list[Served]]
    """By a model's name, its aliases and its queues' names."""


def _without_errors(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _waiting(queue: str, answer: Any) -> int:
    """Return how many jobs wait; an error, such as a key of another type, counts as 0."""
    if isinstance(answer, int):
        return answer
    _log.warning("the number of waiting jobs cannot be read: %s: %s", keys.arrivals(queue), answer)
    return 0


class Registry:
    """The API's view of the fleet. Owned by one event loop.

    While Redis is away, the last view stays valid for up to `settings.redis_patience_s`.
    """

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._grace_s = settings.worker_grace_s
        self._most_waiting = settings.max_waiting_jobs
        self._standby = settings.standby_queues
        self._view_life_s = settings.redis_patience_s
        self._store_age = StoreAge(settings)
        self._view: View | None = None
        self._picked: dict[str, int] = {}
        self._best_tokens_per_s: dict[tuple[str, int], float] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Refresh now, without an error if Redis is away, and then every second."""
        await self._try_refresh()
        self._task = asyncio.create_task(self._refresh_for_ever(), name="penstock-registry")

    async def stop(self) -> None:
        """Stop refreshing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except (RedisError, OSError, RuntimeError, msgspec.MsgspecError) as error:
            _log.warning("the registry keeps its last view: %s", error)

    async def refresh(self) -> None:
        """Read the fleet again.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        asked_s = time.monotonic()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.time()
        pipeline.zrange(keys.WORKERS, 0, -1)
        pipeline.zrange(keys.MODELS, 0, -1, withscores=True)
        self._store_age.ask(pipeline)
        *answers, mark = await pipeline.execute(raise_on_error=False)
        (seconds, microseconds), worker_ids, models = _without_errors(answers)
        clock.hear((seconds, microseconds), asked_s)
        seen_ms = {queue.decode(errors="replace"): last_ms for queue, last_ms in models}
        seen_ms = dict.fromkeys(self._standby, 0.0) | seen_ms
        queues = list(seen_ms)
        pipeline = self._redis.pipeline(transaction=False)
        worker_keys = [keys.worker(worker_id.decode(errors="replace")) for worker_id in worker_ids]
        pipeline.mget(worker_keys or [keys.worker("")])  # no empty list; no worker has this name
        pipeline.mget([keys.model(queue) for queue in queues] or [keys.model("")])
        for queue in queues:
            pipeline.zcard(keys.arrivals(queue))
        self._store_age.hear(mark, seconds * 1000 + microseconds // 1000, pipeline)
        for queue in self._standby:  # keep what its last worker announced
            pipeline.expire(keys.model(queue), MODEL_LIFE_S)
        answers = await pipeline.execute(raise_on_error=False)
        cards, model_cards = _without_errors(answers[:2])
        waits = [
            _waiting(queue, answer) for queue, answer in zip(queues, answers[2:], strict=False)
        ]
        read = contents.readable(_worker_decoder, zip(worker_keys, cards, strict=False))
        workers = tuple(card for card in read if card is not None)
        working = by_queue(worker for worker in workers if not worker.draining)
        served = tuple(
            serve(card, working.get(queue, ()), waiting, seen_ms[queue] / 1000)
            for queue, encoded, waiting in zip(queues, model_cards, waits, strict=False)
            if (card := self._card(queue, encoded)) is not None
        )
        for served_queue in served:
            fleet = (served_queue.card.queue, len(served_queue.workers))
            best = self._best_tokens_per_s.get(fleet, 0.0)
            self._best_tokens_per_s[fleet] = max(served_queue.load.decode_tokens_per_s, best)
        if self._view and {one.card.queue for one in self._view.served} - {
            one.card.queue for one in served
        }:
            self._store_age.doubt()  # an announcement lives for a day after its last renewal
        self._picked = {}
        self._view = View(
            read_s=time.monotonic(),
            now_s=seconds + microseconds / 1e6,
            workers=workers,
            served=served,
            by_name=by_name(served),
        )

    def _card(self, queue: str, encoded: bytes | None) -> ModelCard | None:
        if encoded is None:
            return plain_card(queue) if queue in self._standby else None
        return contents.readable(_model_decoder, [(keys.model(queue), encoded)])[0]

    def _fresh_view(self) -> View | None:
        view = self._view
        too_old = view is None or time.monotonic() - view.read_s > self._view_life_s
        return None if too_old else view

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
        """Return the card of every queue that a live worker serves or that stands by."""
        view = self._fresh_view()
        if view is None:
            return ()
        return tuple(
            queue.card
            for queue in view.served
            if queue.workers or queue.card.queue in self._standby
        )

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
            left_s = self._store_age.settles_in_s()
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
        return any(
            queue.card.name == card.name and queue.waiting_jobs < self._most_waiting
            for queue in self.served()
        )

    def other_queues(self, card: ModelCard) -> tuple[str, ...]:
        """Return the other live queues of the same model, shortest wait first.

        Another version that shares only an alias with it is not the same model.
        """
        others = [
            queue
            for queue in self.served()
            if queue.card.name == card.name
            and queue.card.backend == card.backend
            and queue.card.queue != card.queue
        ]
        return tuple(queue.card.queue for queue in sorted(others, key=self._expected_wait))

    def _expected_wait(self, served: Served) -> tuple[float, float]:
        """Return a key by which queues are compared for a further job; less is better.

        Jobs share a worker's tokens/s once its slots are full; before that, each gets a slot's
        share. Ties are decided by occupancy.
        """
        queue = served.card.queue
        assumed = ASSUMED_TOKENS_PER_S.get(served.card.device.split(".")[0], 1.0)
        workers = len(served.workers)
        tokens_per_s = self._best_tokens_per_s.get((queue, workers)) or assumed * max(workers, 1)
        slots = max(served.slots, served.card.slots, 1)
        jobs = served.load.running + served.load.waiting + served.waiting_jobs
        jobs += self._picked.get(queue, 0) + 1
        return (max(jobs, slots) / tokens_per_s, jobs / slots)
