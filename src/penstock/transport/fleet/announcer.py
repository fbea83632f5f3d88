"""Live workers and the models that they serve: a worker's side."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.clock import clock
from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from penstock.contract.worker import WorkerCard
    from penstock.settings import Settings

HEARTBEATS_OF_LIFE: Final = 5
"""A worker that has missed this many heartbeats counts as dead."""
MODEL_LIFE_S: Final = 86_400
DRAIN_LIFE_S: Final = 3_600
"""How long an operator's request outlives its worker, at most."""

_encoder = msgspec.json.Encoder()


class Announcer:
    """A worker's entry in the registry. Used by one thread."""

    def __init__(self, redis: redis.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._life_ms = int(settings.heartbeat_s * HEARTBEATS_OF_LIFE * 1000)

    def _now_ms(self) -> int:
        asked_s = time.monotonic()
        seconds, microseconds = self._redis.time()
        clock.hear((seconds, microseconds), asked_s)
        return seconds * 1000 + microseconds // 1000

    def announce(self, card: WorkerCard) -> bool:
        """Publish that this worker is alive; call it every `settings.heartbeat_s`.

        Returns whether an operator has asked it to rest: to claim nothing until further notice.

        :raises redis.exceptions.RedisError: Redis is away; the next heartbeat tries again.
        """
        now_ms = self._now_ms()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(keys.worker(card.id), _encoder.encode(card), px=self._life_ms)
        pipeline.zremrangebyscore(keys.WORKERS, "-inf", now_ms)
        pipeline.zadd(keys.WORKERS, {card.id: now_ms + self._life_ms})
        pipeline.pexpire(keys.WORKERS, self._life_ms)
        for model in card.models:
            self._claims_from(pipeline, model.queue, card, now_ms)
            pipeline.set(keys.model(model.queue), _encoder.encode(model), ex=MODEL_LIFE_S)
            pipeline.zadd(keys.MODELS, {model.queue: now_ms})
        pipeline.zremrangebyscore(keys.MODELS, "-inf", now_ms - MODEL_LIFE_S * 1000)
        pipeline.expire(keys.MODELS, MODEL_LIFE_S)
        pipeline.expire(keys.drain(card.id), DRAIN_LIFE_S)  # returns 1 only if the key exists
        return bool(pipeline.execute()[-1])

    def _claims_from(self, pipeline: Any, queue: str, card: WorkerCard, now_ms: int) -> None:
        """Join the workers that share a queue's jobs, or leave them while nothing is claimed.

        Likewise those that could load its model.
        """
        status = card.status_of(queue)
        memberships = {keys.workers_of(queue): status == "loaded"}
        if queue in card.states:
            memberships[keys.loaders_of(queue)] = status in {"loading", "unloading", "on_demand"}
        for key, is_member in memberships.items():
            pipeline.zremrangebyscore(key, "-inf", now_ms)
            if is_member and not card.draining:
                pipeline.zadd(key, {card.id: now_ms + self._life_ms})
                pipeline.pexpire(key, self._life_ms)
            else:
                pipeline.zrem(key, card.id)
        if status == "loading":
            pipeline.set(keys.loading(queue), card.id, px=self._life_ms)

    def withdraw(self, worker_id: str, queues: Iterable[str]) -> None:
        """Remove this worker. Without this call, its missing heartbeats have the same effect.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.delete(keys.worker(worker_id), keys.drain(worker_id))
        pipeline.zrem(keys.WORKERS, worker_id)
        for queue in queues:
            pipeline.zrem(keys.workers_of(queue), worker_id)
            pipeline.zrem(keys.loaders_of(queue), worker_id)
            pipeline.delete(keys.heads(queue, worker_id), keys.called(queue, worker_id))
        pipeline.execute()
