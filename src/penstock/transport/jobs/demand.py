"""Which models are asked for, and which worker loads one: for workers that load on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.transport import keys
from penstock.transport.fleet.announcer import HEARTBEATS_OF_LIFE
from penstock.transport.store.connection import patiently
from penstock.transport.store.scripting import Scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from penstock.settings import Settings

TRIES_LIFE_S: Final = 600
"""How long a load that ended with its process counts against the model."""


class Demand(msgspec.Struct, frozen=True):
    """What waits in a queue; `priority` is the best of it, from 0 (first) to 9.

    `claiming` other live workers have the model in memory and take its jobs, `loaders` could load
    it, and `is_loading`: one of these does.
    """

    waiting: int
    oldest_s: float
    priority: int
    claiming: int
    loaders: int
    is_loading: bool


class LoadOrders:
    """One worker's view of the demand, and its word to the others that it loads a model."""

    def __init__(self, redis: redis.Redis, settings: Settings, worker_id: str) -> None:
        self._redis = cast("Any", redis)
        self._scripts = Scripts(redis, settings)
        self._worker_id = worker_id
        self._patience_s = settings.redis_patience_s
        self._life_ms = int(settings.heartbeat_s * HEARTBEATS_OF_LIFE * 1000)

    def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many jobs wait in each queue; 0 if the key has another type.

        :raises redis.RedisError: Redis is away.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for queue in queues:
            pipeline.zcard(keys.arrivals(queue))
        counts = pipeline.execute(raise_on_error=False)
        return {
            queue: count if isinstance(count, int) else 0
            for queue, count in zip(queues, counts, strict=True)
        }

    def demand(self, queue: str) -> Demand:
        """Return what waits in a queue, and who else could serve it.

        :raises redis.RedisError: Redis is away, or refuses.
        """
        waiting, oldest_ms, priority, claiming, loaders, is_loading = self._scripts.run(
            "demand", queue, self._worker_id
        )
        return Demand(
            waiting, oldest_ms / 1000, priority, claiming, loaders, is_loading=bool(is_loading)
        )

    def begin(self, queue: str) -> int:
        """Reserve a queue's load; return how many loads of it have not ended, this one included.

        0: another worker loads it. The reservation lasts as long as the worker announces the load.

        :raises redis.RedisError: Redis is away, or refuses.
        """
        if not self._redis.set(keys.loading(queue), self._worker_id, nx=True, px=self._life_ms):
            return 0
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(keys.load_tries(queue), 0, nx=True, ex=TRIES_LIFE_S)
        pipeline.incr(keys.load_tries(queue))
        return int(pipeline.execute()[-1])

    def end(self, queue: str, *, tried: bool = True) -> None:
        """Note that a load has ended, well or not; unless it was not even `tried`, it counts no more.

        :raises StoreUnavailable: Redis stayed away.
        """
        ended = [keys.loading(queue), *([keys.load_tries(queue)] if tried else [])]
        patiently(lambda: self._redis.delete(*ended), self._patience_s)
