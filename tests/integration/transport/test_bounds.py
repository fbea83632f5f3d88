"""Queues that are full, and a Redis that is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from penstock.errors import QueueFull, StoreUnavailable
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, Row, WorkerQueue
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens
from tests.fixtures.queues import events, start

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    import redis.asyncio


async def test_a_full_queue_stores_nothing(
    jobs_with: Callable[..., JobQueue], redis_client: redis.Redis
) -> None:
    jobs = jobs_with(max_waiting_jobs=2)
    for _ in range(2):
        await jobs.submit(make_job())
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    with pytest.raises(QueueFull) as full:
        await jobs.submit(make_job())
    assert full.value.retry_after_s == 5.0  # nothing has ended yet: no rate is known
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before


async def test_the_bound_of_tokens(
    jobs_with: Callable[..., JobQueue], redis_client: redis.Redis
) -> None:
    jobs = jobs_with(max_waiting_tokens=100)
    await jobs.submit(make_job(cost_tokens=60))
    with pytest.raises(QueueFull):
        await jobs.submit(make_job(cost_tokens=41))
    await jobs.submit(make_job(cost_tokens=40))
    assert (await jobs.depth(QUEUE)).waiting_tokens == 100


async def test_a_job_above_the_bound_of_tokens_may_wait_alone(
    jobs_with: Callable[..., JobQueue], redis_client: redis.Redis
) -> None:
    jobs = jobs_with(max_waiting_tokens=100)
    assert await jobs.submit(make_job(cost_tokens=500))
    with pytest.raises(QueueFull):
        await jobs.submit(make_job(cost_tokens=1))


async def test_retry_after_comes_from_the_rate_of_finishes(
    jobs_with: Callable[..., JobQueue],
    redis_client: redis.Redis,
    worker: WorkerQueue,
) -> None:
    jobs = jobs_with(max_waiting_jobs=1)
    for _ in range(20):
        job = await start(jobs, worker)
        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
    await jobs.submit(make_job())
    with pytest.raises(QueueFull) as full:
        await jobs.submit(make_job())
    assert full.value.retry_after_s == 1.0  # twenty within this second
    # The same twenty, a minute and a half without one more: one place takes about 8 s.
    counters = f"{keys.queue_prefix(QUEUE)}counters"
    for field in ("rate_at", "rate_from"):
        redis_client.hincrby(counters, field, -90_000)
    with pytest.raises(QueueFull) as full:
        await jobs.submit(make_job())
    assert full.value.retry_after_s is not None
    assert 5 <= full.value.retry_after_s <= 20


async def test_a_redis_out_of_memory_refuses_new_jobs_and_finishes_old_ones(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    first, second = make_job(), make_job()
    await jobs.submit(first)
    await jobs.submit(second)
    worker.claim(QUEUE)
    redis_client.config_set("maxmemory", "1mb")
    try:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable, match="out of memory"):
            await jobs.submit(make_job())
        assert time.monotonic() - before < 1
        rows = [Row(first.id, 1, tokens(first.id, 0)), Row(first.id, 1, finished(first.id, 1))]
        assert worker.append(QUEUE, rows) == []
        claim = worker.claim(QUEUE)
        assert claim
        assert worker.renew(QUEUE, {second.id: claim.epoch}) == []
        assert worker.release(QUEUE, second.id, claim.epoch)
        assert await jobs.cancel(second.id) == "cancelled"
    finally:
        redis_client.config_set("maxmemory", "0")
    assert len(events(redis_client, first)) == 2
