"""Jobs that are cancelled while they wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.transport.jobs.queue import JobQueue, Row, WorkerQueue
from tests.fixtures.jobs import QUEUE, finished, make_job
from tests.fixtures.queues import bells, events, open_keys, start

if TYPE_CHECKING:
    import redis
    import redis.asyncio


async def test_it_is_out_at_once(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = make_job(cost_tokens=30)
    await jobs.submit(job)
    assert await jobs.cancel(job.id) == "cancelled"
    assert await jobs.cancel(job.id) == "cancelled"
    (last,) = events(redis_client, job)
    assert (last.code, last.index) == ("cancelled", 0)
    assert worker.claim(QUEUE) is None
    assert (await jobs.depth(QUEUE)).waiting_tokens == 0
    assert open_keys(redis_client) == set()  # its bell too


async def test_it_takes_its_own_bell_only(jobs: JobQueue, redis_client: redis.Redis) -> None:
    first, second = make_job(), make_job()
    await jobs.submit(first)
    await jobs.submit(second)
    await jobs.cancel(first.id)
    assert bells(redis_client) == 1
    redis_client.lpush(QUEUE, '{"headers": {"task": "somebody.elses"}}')
    await jobs.cancel(second.id)
    assert bells(redis_client) == 2  # the stranger is on top: it is left, and so is the bell


async def test_an_ended_job_reports_its_state(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
    assert await jobs.cancel(job.id) == "finished"
