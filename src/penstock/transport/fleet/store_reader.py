"""Reads one Redis's live workers and queues, once a second."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from redis.exceptions import RedisError

from penstock.clock import FleetClock, clock
from penstock.contract.adapter import LoadedAdapter
from penstock.contract.worker import ModelCard, WorkerCard
from penstock.transport import keys
from penstock.transport.fleet import adapters
from penstock.transport.fleet.announcer import MODEL_LIFE_S
from penstock.transport.fleet.served import Served, by_queue, serve
from penstock.transport.fleet.standby import plain_card
from penstock.transport.fleet.store_age import StoreAge
from penstock.transport.store import contents
from penstock.transport.store.repeated_lines import lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis.asyncio

    from penstock.settings import Settings

REFRESH_S: Final = 1.0

_log = logging.getLogger(__name__)
_worker_decoder = msgspec.json.Decoder(WorkerCard)
_model_decoder = msgspec.json.Decoder(ModelCard)


class Reading(msgspec.Struct, frozen=True):
    """What one Redis had at `read_s` (monotonic), when it was `now_s` by the process's clock.

    All other times in it are by that clock too, whatever the clock of this Redis is.
    """

    read_s: float
    now_s: float
    workers: tuple[WorkerCard, ...]
    served: tuple[Served, ...]
    adapters: tuple[LoadedAdapter, ...] = ()


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


def _set_back(card: WorkerCard, by_s: float) -> WorkerCard:
    """Return a worker's card with its times that much earlier."""
    by_ms = int(by_s * 1000)
    if not by_ms:
        return card
    return msgspec.structs.replace(
        card, started_ms=card.started_ms - by_ms, heartbeat_ms=card.heartbeat_ms - by_ms
    )


class StoreReader:
    """The last reading of one Redis. Owned by one event loop.

    `standby` are the queues of this Redis that take jobs without a worker. Queues that it does not
    own are left out: their jobs go to another Redis. `its_clock` follows this Redis. `on_read` is
    called with each reading.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        settings: Settings,
        standby: Sequence[str],
        *,
        owns: Callable[[str], bool],
        its_clock: FleetClock,
        on_read: Callable[[Reading], None],
    ) -> None:
        self._redis = cast("Any", redis)
        self._standby = standby
        self._owns = owns
        self._clock = its_clock
        self._on_read = on_read
        self._task: asyncio.Task[None] | None = None
        self.age = StoreAge(settings)
        self.reading: Reading | None = None

    def fresh(self, life_s: float) -> Reading | None:
        """Return the last reading, unless it is older than `life_s`."""
        reading = self.reading
        if reading is None or time.monotonic() - reading.read_s > life_s:
            return None
        return reading

    async def start(self) -> None:
        """Read now, without an error if Redis is away, and then every second."""
        await self._try_refresh()
        self._task = asyncio.create_task(self._refresh_for_ever(), name="penstock-registry")

    async def stop(self) -> None:
        """Stop reading."""
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
        pipeline.hgetall(keys.ADAPTERS)
        self.age.ask(pipeline)
        *answers, stored, mark = await pipeline.execute(raise_on_error=False)
        (seconds, microseconds), worker_ids, models = _without_errors(answers)
        self._clock.hear((seconds, microseconds), asked_s)
        ahead_s = self._clock.ahead_s(clock)
        seen_ms = dict.fromkeys(self._standby, 0.0) | self._own(models)
        queues = list(seen_ms)
        pipeline = self._redis.pipeline(transaction=False)
        worker_keys = [keys.worker(worker_id.decode(errors="replace")) for worker_id in worker_ids]
        pipeline.mget(worker_keys or [keys.worker("")])  # no empty list; no worker has this name
        pipeline.mget([keys.model(queue) for queue in queues] or [keys.model("")])
        for queue in queues:
            pipeline.zcard(keys.arrivals(queue))
        self.age.hear(mark, seconds * 1000 + microseconds // 1000, pipeline)
        for queue in self._standby:  # keep what its last worker announced
            pipeline.expire(keys.model(queue), MODEL_LIFE_S)
        answers = await pipeline.execute(raise_on_error=False)
        cards, model_cards = _without_errors(answers[:2])
        waits = [
            _waiting(queue, answer) for queue, answer in zip(queues, answers[2:], strict=False)
        ]
        read = contents.readable(_worker_decoder, zip(worker_keys, cards, strict=False))
        workers = tuple(_set_back(card, ahead_s) for card in read if card is not None)
        working = by_queue(worker for worker in workers if not worker.draining)
        served = tuple(
            serve(card, working.get(queue, ()), waiting, seen_ms[queue] / 1000 - ahead_s)
            for queue, encoded, waiting in zip(queues, model_cards, waits, strict=False)
            if (card := self._card(queue, encoded)) is not None
        )
        before = self.reading.served if self.reading else ()
        if {one.card.queue for one in before} - {one.card.queue for one in served}:
            self.age.doubt()  # an announcement lives for a day after its last renewal
        self.reading = Reading(
            read_s=time.monotonic(),
            now_s=seconds + microseconds / 1e6 - ahead_s,
            workers=workers,
            served=served,
            adapters=tuple(adapters.loaded(stored)),
        )
        self._on_read(self.reading)

    def _own(self, models: Sequence[tuple[bytes, float]]) -> dict[str, float]:
        """Return when each queue of this Redis was last announced (Unix ms)."""
        seen_ms = {queue.decode(errors="replace"): last_ms for queue, last_ms in models}
        for queue in [queue for queue in seen_ms if not self._owns(queue)]:
            del seen_ms[queue]
            line = f"the queue {queue} is announced at a Redis that does not have its jobs"
            if lines.is_due(line):
                _log.warning("%s: does its worker have other PENSTOCK_REDIS_GROUPS?", line)
        return seen_ms

    def _card(self, queue: str, encoded: bytes | None) -> ModelCard | None:
        if encoded is None:
            return plain_card(queue) if queue in self._standby else None
        return contents.readable(_model_decoder, [(keys.model(queue), encoded)])[0]


async def home_first(
    readers: Sequence[StoreReader], read: Callable[[StoreReader], Awaitable[None]]
) -> list[BaseException | None]:
    """Read every Redis, the home one first, and return what each raised.

    The home Redis sets the process's clock, by which all readings are dated.
    """
    home, *others = readers
    failed = await asyncio.gather(read(home), return_exceptions=True)
    return [*failed, *await asyncio.gather(*map(read, others), return_exceptions=True)]
