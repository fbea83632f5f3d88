"""Claims and their leases: lost, kept, handed back, poisonous."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from penstock.contract.events import Failed
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Refusal, Row, WorkerQueue
from penstock.transport.store.scripting import Scripts
from tests.fixtures.jobs import QUEUE, make_job, tokens, wait_until
from tests.fixtures.queues import bells, drop_bells, events, lose, open_keys, start

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings


def claim(scripts: Scripts, token: str) -> list[Any]:
    """Claim one job under a token of the test's choice."""
    _, found = scripts.run("claim", QUEUE, "w", token, 10_000, 0, 1, 1, 0)
    return found


async def test_a_repeated_claim_gives_the_same_job(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    for _ in range(2):
        await jobs.submit(make_job())
    scripts = Scripts(redis_client, redis_settings)
    first = claim(scripts, "token-1")
    assert claim(scripts, "token-1") == first
    other = claim(scripts, "token-2")
    assert other[0] != first[0]
    assert other[1] == first[1] == 1


async def test_a_repeated_claim_of_a_job_that_was_reaped_takes_it_again(
    jobs: JobQueue,
    worker: WorkerQueue,
    redis_client: redis.Redis,
    redis_settings: Settings,
) -> None:
    await jobs.submit(make_job())
    scripts = Scripts(redis_client, redis_settings)
    assert claim(scripts, "token-1")[1] == 1
    lose(worker)
    assert claim(scripts, "token-1")[1] == 2


async def test_a_lost_workers_job_goes_on_at_its_next_token(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker, written=3)
    drop_bells(redis_client)
    lose(worker)
    assert bells(redis_client) == 1
    assert (await jobs.state(job.id)).lost == 1
    claim = worker.claim(QUEUE)
    assert claim
    assert (claim.epoch, claim.next_index) == (2, 3)


async def test_appends_and_renewals_keep_a_lease(jobs: JobQueue, worker: WorkerQueue) -> None:
    appending, renewing = make_job(), make_job()
    for job in (appending, renewing):
        await jobs.submit(job)
        worker.claim(QUEUE)
    end_s = time.monotonic() + 0.9  # three leases
    index = 0
    while time.monotonic() < end_s:
        assert worker.append(QUEUE, [Row(appending.id, 1, tokens(appending.id, index))]) == []
        assert worker.renew(QUEUE, {renewing.id: 1}) == []
        assert worker.reap(QUEUE).requeued == 0
        index += 1
        await asyncio.sleep(0.01)
    lose(worker)


async def test_poison(
    jobs: JobQueue,
    worker: WorkerQueue,
    redis_client: redis.Redis,
    redis_settings: Settings,
) -> None:
    job = make_job()
    await jobs.submit(job)
    for attempt in range(redis_settings.max_attempts):
        claim = worker.claim(QUEUE)
        assert claim
        assert claim.attempt == attempt + 1
        lose(worker)
    assert worker.claim(QUEUE) is None
    (last,) = events(redis_client, job)
    assert isinstance(last, Failed)
    assert (last.code, last.message) == ("poison_job", "the job took down 3 workers")
    assert (await jobs.state(job.id)).status is JobStatus.FAILED
    worker.reap(QUEUE)
    drop_bells(redis_client)
    assert open_keys(redis_client) == set()


async def test_releases_do_not_poison(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = make_job()
    await jobs.submit(job)
    for epoch in range(1, 6):
        assert worker.claim(QUEUE)
        drop_bells(redis_client)
        assert worker.release(QUEUE, job.id, epoch)
        assert bells(redis_client) == 1
        assert worker.release(QUEUE, job.id, epoch)  # repeated after a lost answer
        assert bells(redis_client) == 1
    assert not worker.release(QUEUE, job.id, 1)
    assert not worker.release(QUEUE, "nobody", 1)
    assert (await jobs.state(job.id)).lost == 0


async def test_a_cancelled_job_ends_at_the_next_renewal(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    await jobs.cancel(job.id)
    for _ in range(2):
        assert worker.renew(QUEUE, {job.id: 1, "nobody": 1}) == [
            Refusal(job.id, "cancelled"),
            Refusal("nobody", "fenced"),
        ]
    assert len(events(redis_client, job)) == 1


async def test_a_cancelled_job_whose_worker_died_ends(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    await jobs.cancel(job.id)
    wait_until(lambda: worker.reap(QUEUE) and events(redis_client, job))
    assert events(redis_client, job)[-1].code == "cancelled"


async def test_a_released_job_that_is_cancelled_ends(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    await jobs.cancel(job.id)
    assert worker.release(QUEUE, job.id, 1)
    assert events(redis_client, job)[-1].code == "cancelled"


async def test_a_claim_that_redis_forgot_is_no_other_workers(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    """Redis comes back without its last instant, and gives the same epoch to somebody else."""
    job = make_job()
    await jobs.submit(job)
    key = keys.job(QUEUE, job.id)
    before: dict[Any, Any] = {name: redis_client.dump(name) for name in redis_client.scan_iter()}
    assert worker.claim(QUEUE)
    redis_client.flushall()
    for name, dumped in before.items():
        redis_client.restore(name, 600_000, dumped)
    other = WorkerQueue(redis_client, redis_settings, "worker-2")
    claim = other.claim(QUEUE)
    assert claim
    assert claim.epoch == 1
    fenced = [Refusal(job.id, "fenced")]
    assert worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))]) == fenced
    assert worker.renew(QUEUE, {job.id: 1}) == fenced
    assert not worker.release(QUEUE, job.id, 1)
    assert redis_client.hget(key, "worker") == b"worker-2"
    assert other.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))]) == []
