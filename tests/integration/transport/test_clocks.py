"""Redis's clock is set, or a replica takes over whose clock is another.

Seen from the scripts, a clock that is set back is the same as stored times that lie ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.errors import QueueFull
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Row, WorkerQueue
from tests.fixtures.clocks import HOUR_S
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings

COUNTERS = f"{keys.queue_prefix(QUEUE)}counters"


@pytest.fixture
def jobs(async_redis: redis.asyncio.Redis, redis_settings: Settings) -> JobQueue:
    return JobQueue(async_redis, redis_settings.model_copy(update={"max_waiting_jobs": 1}))


@pytest.fixture
def worker(redis_client: redis.Redis, redis_settings: Settings) -> WorkerQueue:
    return WorkerQueue(redis_client, redis_settings, "worker")


def set_clock(client: redis.Redis, hours: float) -> None:
    """Do as if Redis's clock had been set: every time that the queue remembers lies elsewhere."""
    shift_ms = int(-hours * HOUR_S * 1000)
    leased: Any = client.zrange(keys.leases(QUEUE), 0, -1)
    for job_id in leased:
        client.zincrby(keys.leases(QUEUE), shift_ms, job_id)
    for field in ("reaped", "rate_at", "rate_from"):
        if client.hexists(COUNTERS, field):
            client.hincrby(COUNTERS, field, shift_ms)


async def test_set_back_dead_workers_are_missed_all_the_same(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = make_job()
    await jobs.submit(job)
    assert worker.claim(QUEUE)
    worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
    worker.reap(QUEUE)
    set_clock(redis_client, -1)
    wait_until(lambda: worker.reap(QUEUE).requeued, 3.0)
    claim = worker.claim(QUEUE)
    assert claim
    assert (claim.epoch, claim.next_index) == (2, 1)
    assert worker.append(QUEUE, [Row(job.id, 2, finished(job.id, 1))]) == []
    assert (await jobs.state(job.id)).status is JobStatus.FINISHED
    redis_client.delete(QUEUE)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_live_workers_keep_what_they_hold(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, hours: int
) -> None:
    job = make_job()
    await jobs.submit(job)
    assert worker.claim(QUEUE)
    worker.reap(QUEUE)
    set_clock(redis_client, hours)
    assert worker.reap(QUEUE).requeued == 0
    assert worker.renew(QUEUE, {job.id: 1}) == []
    assert worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))]) == []
    redis_client.delete(QUEUE)


async def test_set_back_retry_after_stays_what_was_measured(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for _ in range(5):
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
    await jobs.submit(make_job())
    told: list[float | None] = []
    for hours in (0, -1):
        set_clock(redis_client, hours)
        with pytest.raises(QueueFull) as refused:
            await jobs.submit(make_job())
        told.append(refused.value.retry_after_s)
        worker.claim(QUEUE)
        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
        rate = float(redis_client.hget(COUNTERS, "rate") or "nan")
        assert rate < 1e-3  # no e^60 jobs a millisecond
        await jobs.submit(make_job())
    assert all(one is not None and 1 <= one <= 60 for one in told)
    redis_client.delete(QUEUE)
