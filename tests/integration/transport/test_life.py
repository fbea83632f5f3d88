"""A job's life on its queue: submitted, claimed, written, ended, found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.errors import UnknownJob
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Row, WorkerQueue
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until
from tests.fixtures.queues import bells, claim_ids, drop_bells, events, open_keys, start

if TYPE_CHECKING:
    import redis
    import redis.asyncio


async def test_a_job_from_submit_to_its_end(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = make_job(tenant="a", priority=3, cost_tokens=40)

    assert await jobs.submit(job)
    depth = await jobs.depth(QUEUE)
    assert (depth.waiting_jobs, depth.waiting_tokens, depth.running) == (1, 40, 0)
    assert (await jobs.state(job.id)).status is JobStatus.WAITING
    assert bells(redis_client) == 1

    claim = worker.claim(QUEUE)
    assert claim is not None
    assert (claim.job, claim.epoch, claim.next_index, claim.attempt) == (job, 1, 0, 1)
    assert worker.claim(QUEUE) is None
    state = await jobs.state(job.id)
    assert (state.status, state.worker, state.epoch) == (JobStatus.RUNNING, "worker-1", 1)
    assert (await jobs.depth(QUEUE)).running == 1

    rows = [tokens(job.id, 0, count=2), tokens(job.id, 2), finished(job.id, 3)]
    assert worker.append(QUEUE, [Row(job.id, 1, row) for row in rows[:1]]) == []
    assert (await jobs.state(job.id)).next_index == 2
    assert worker.append(QUEUE, [Row(job.id, 1, row) for row in rows[1:]]) == []
    assert events(redis_client, job) == rows
    assert (await jobs.state(job.id)).status is JobStatus.FINISHED
    drop_bells(redis_client)
    assert open_keys(redis_client) == set()


async def test_an_ended_job_shrinks_to_the_journals_time(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker, written=1, deadline_s=5_000)
    for key in (keys.job(QUEUE, job.id), keys.journal(QUEUE, job.id), keys.locate(job.id)):
        assert 5_000 < redis_client.ttl(key) <= 5_600

    worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 1))])
    assert redis_client.ttl(keys.job(QUEUE, job.id)) <= 600
    assert redis_client.ttl(keys.journal(QUEUE, job.id)) <= 600
    # Nobody has heard of its end: what was asked is kept as long, for whoever accounts for it.
    assert redis_client.hget(keys.job(QUEUE, job.id), "job") is not None
    assert 0 < redis_client.ttl(keys.unheard(QUEUE)) <= 600


async def test_an_ended_job_that_was_heard_is_rid_of_what_was_asked(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    with redis_client.pubsub() as listener:
        listener.subscribe("penstock:reply:heard")
        assert listener.get_message(timeout=5)
        job = await start(jobs, worker, reply="penstock:reply:heard")
        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
    assert redis_client.hget(keys.job(QUEUE, job.id), "job") is None
    assert not redis_client.exists(keys.unheard(QUEUE))


async def test_every_key_of_a_waiting_job_expires_without_any_process(
    jobs: JobQueue, redis_client: redis.Redis
) -> None:
    await jobs.submit(make_job(deadline_s=100))
    left = {key.decode(): redis_client.ttl(key) for key in redis_client.scan_iter()}
    assert left.pop(QUEUE) == -1
    assert all(ttl > 0 for ttl in left.values()), left


async def test_submit_twice_is_one_job(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = make_job()
    assert await jobs.submit(job)
    assert not await jobs.submit(job)
    assert claim_ids(worker) == [job.id]
    assert not await jobs.submit(job)
    assert worker.claim(QUEUE) is None


async def test_unknown_jobs(jobs: JobQueue) -> None:
    for call in (jobs.state, jobs.cancel, jobs.locate):
        with pytest.raises(UnknownJob):
            await call("nobody")
    with pytest.raises(UnknownJob):
        await jobs.redirect("nobody", "somewhere")


async def test_a_redirected_job_speaks_elsewhere(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker, reply="old")
    await jobs.redirect(job.id, "new")
    with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("old", "new")
        pubsub.get_message(timeout=1)
        pubsub.get_message(timeout=1)
        worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
        message = wait_until(lambda: pubsub.get_message(timeout=0.1))
        assert message["channel"] == b"new"


async def test_the_clock_is_redis_own(jobs: JobQueue, redis_client: redis.Redis) -> None:
    seconds, microseconds = redis_client.time()
    assert abs(await jobs.now_ms(QUEUE) - (seconds * 1000 + microseconds // 1000)) < 500
