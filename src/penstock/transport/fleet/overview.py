"""Figures for operators: open jobs, the last hour, workers asked to rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
from redis.exceptions import RedisError

from penstock.transport import keys
from penstock.transport.fleet.announcer import DRAIN_LIFE_S
from penstock.transport.fleet.history import percentile
from penstock.transport.jobs.records import QueueDepth
from penstock.transport.store import contents
from penstock.transport.store.grouped import Stores, stores_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    import redis.asyncio

T = TypeVar("T")

HISTORY_LIFE_S: Final = 2 * 3_600
_FIELDS: Final = ("state", "tenant", "created", "next", "priority", "cost", "worker", "lost")


class OpenJob(msgspec.Struct, frozen=True):
    """A job that waits or runs. `tokens` are in its journal; `lost` workers died while running it."""

    id: str
    queue: str
    status: str
    tenant: str
    age_s: float
    tokens: int
    priority: int
    cost_tokens: int
    worker: str
    lost: int


class QueueMinute(msgspec.Struct, frozen=True, omit_defaults=True):
    """One queue's minute. Latencies are in seconds; None if nothing was measured."""

    tokens: int = 0
    prompt_tokens: int = 0
    answers: int = 0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    ttft_p99: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None
    itl_p99: float | None = None


class Overview:
    """Reads across the fleet. Owned by one event loop; every call is one or two round trips."""

    def __init__(self, redis: redis.asyncio.Redis | Stores) -> None:
        self._stores = stores_of(redis).map(lambda client: cast("Any", client))

    async def open_jobs(self, queues: Sequence[str], most: int) -> list[OpenJob]:
        """Return open jobs: waiting ones (oldest first) and running ones, `most` of each a queue.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        of_each = [_open_jobs(client, names, most) for client, names in self._split(queues)]
        return [job for jobs in await _reachable(of_each) for job in jobs]

    def _split(self, queues: Sequence[str]) -> list[tuple[Any, list[str]]]:
        return self._stores.split(queues) or [(self._stores.home, [])]

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueDepth]:
        """Return how many jobs wait and run: `JobQueue.depth` for many queues at once.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        of_each = [_depths(client, names) for client, names in self._split(queues)]
        return {
            name: depth for depths in await _reachable(of_each) for name, depth in depths.items()
        }

    async def resting(self, worker_ids: Sequence[str]) -> frozenset[str]:
        """Return the ids of the workers that are asked to rest.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        of_each = [_resting(client, worker_ids) for client in self._stores.all()]
        return frozenset[str]().union(*await _reachable(of_each))

    async def ask_to_rest(self, worker_id: str, queue: str, *, rest: bool) -> None:
        """Ask a worker to claim nothing more, or to continue; its next heartbeat takes it up.

        `queue` is one that it serves: the request goes to the Redis of its jobs.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        client = self._stores.of(queue)
        if rest:
            await client.set(keys.drain(worker_id), "1", ex=DRAIN_LIFE_S)
        else:
            await client.delete(keys.drain(worker_id))

    async def add_history(self, counts: Mapping[str, int]) -> None:
        """Add a process's counts to the current minute of Redis's clock.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        seconds, _ = await self._stores.home.time()
        key = keys.history(int(seconds) // 60)
        pipeline = self._stores.home.pipeline(transaction=True)
        for field, count in counts.items():
            pipeline.hincrby(key, field, count)
        pipeline.expire(key, HISTORY_LIFE_S)
        await pipeline.execute()

    async def history(self, minutes: int) -> tuple[int, list[dict[str, QueueMinute]]]:
        """Return the time (Unix, in seconds, by Redis's clock) and the last minutes, by queue.

        The list ends with the current minute, which is not over; the queue "" is the sum of all.

        :raises redis.exceptions.RedisError: Redis is away.
        """
        seconds, _ = await self._stores.home.time()
        now = int(seconds) // 60
        pipeline = self._stores.home.pipeline(transaction=False)
        for minute in range(now - minutes + 1, now + 1):
            pipeline.hgetall(keys.history(minute))
        rows = await pipeline.execute()
        return int(seconds), [
            _minute(fields, keys.history(minute))
            for minute, fields in zip(range(now - minutes + 1, now + 1), rows, strict=True)
        ]


async def _reachable(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Return the answers of those Redis that answer.

    :raises redis.exceptions.RedisError: none does.
    """
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    for failure in failures:
        if len(failures) == len(answers) or not isinstance(failure, RedisError | OSError):
            raise failure
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def _open_jobs(client: Any, queues: Sequence[str], most: int) -> list[OpenJob]:
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    for queue in queues:
        pipeline.zrange(keys.leases(queue), 0, most - 1)
        pipeline.zrange(keys.arrivals(queue), 0, most - 1)
    (seconds, microseconds), *answers = await pipeline.execute()
    now_s = seconds + microseconds / 1e6
    job_ids = [
        (queue, job_id.decode(errors="replace"))
        for queue, running, waiting in zip(queues, answers[::2], answers[1::2], strict=True)
        for job_id in (*running, *waiting)
    ]
    pipeline = client.pipeline(transaction=False)
    for queue, job_id in job_ids:
        pipeline.hmget(keys.job(queue, job_id), _FIELDS)
    rows = await pipeline.execute()
    return [
        _open_job(queue, job_id, row, now_s)
        for (queue, job_id), row in zip(job_ids, rows, strict=True)
        if row[0] in {b"waiting", b"running"}
    ]


async def _depths(client: Any, queues: Sequence[str]) -> dict[str, QueueDepth]:
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    for queue in queues:
        pipeline.zcard(keys.arrivals(queue))
        pipeline.hget(keys.counters(queue), "tokens")
        pipeline.zcard(keys.leases(queue))
        pipeline.zrange(keys.arrivals(queue), 0, 0, withscores=True)
    (seconds, microseconds), *answers = await pipeline.execute()
    now_s = seconds + microseconds / 1e6
    return {
        queue: QueueDepth(
            waiting_jobs=waiting,
            waiting_tokens=contents.whole_number(tokens, keys.counters(queue)),
            running=running,
            oldest_age_s=max(now_s - oldest[0][1] / 1000, 0.0) if oldest else 0.0,
        )
        for queue, waiting, tokens, running, oldest in zip(
            queues, answers[::4], answers[1::4], answers[2::4], answers[3::4], strict=True
        )
    }


async def _resting(client: Any, worker_ids: Sequence[str]) -> frozenset[str]:
    pipeline = client.pipeline(transaction=False)
    for worker_id in worker_ids:
        pipeline.exists(keys.drain(worker_id))
    answers = await pipeline.execute()
    return frozenset(one for one, is_asked in zip(worker_ids, answers, strict=True) if is_asked)


def _open_job(queue: str, job_id: str, row: Sequence[bytes | None], now_s: float) -> OpenJob:
    key = keys.job(queue, job_id)
    state, tenant, created, tokens, priority, cost, worker, lost = (
        contents.text(value or b"", key) for value in row
    )
    return OpenJob(
        id=job_id,
        queue=queue,
        status=state,
        tenant=tenant,
        age_s=max(now_s - contents.whole_number(created, key) / 1000, 0.0),
        tokens=contents.whole_number(tokens, key),
        priority=contents.whole_number(priority, key),
        cost_tokens=contents.whole_number(cost, key),
        worker=worker,
        lost=contents.whole_number(lost, key),
    )


def _minute(fields: Mapping[bytes, bytes], key: str) -> dict[str, QueueMinute]:
    """Return a minute's figures, by queue.

    :raises StoreUnavailable: its key holds something else.
    """
    try:
        return _figures(fields)
    except ValueError as error:
        raise contents.foreign(key, error) from error


def _figures(fields: Mapping[bytes, bytes]) -> dict[str, QueueMinute]:
    amounts: dict[str, Counter[str]] = {}
    latencies: dict[tuple[str, str], Counter[int]] = {}
    for raw, count in fields.items():
        kind, bucket, of_queue = raw.decode().split(":", 2)
        for queue in ("", of_queue):
            amounts.setdefault(queue, Counter())
            if bucket:
                latencies.setdefault((queue, kind), Counter())[int(bucket)] += int(count)
            else:
                amounts[queue][kind] += int(count)
    return {
        queue: QueueMinute(
            tokens=counts["tokens"],
            prompt_tokens=counts["prompt_tokens"],
            answers=counts["answers"],
            **{
                f"{kind}_p{share}": percentile(latencies.get((queue, kind), {}), share / 100)
                for kind in ("ttft", "itl")
                for share in (50, 95, 99)
            },
        )
        for queue, counts in amounts.items()
    }
