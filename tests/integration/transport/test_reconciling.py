"""A key of ours is deleted in the middle of a job's life: the job gets its place back, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Finished
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Row, WorkerQueue
from penstock.transport.jobs.reconciling import Reconciled, Reconciler
from penstock.transport.jobs.unclaimed_endings import UnclaimedEndings
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until
from tests.fixtures.queues import bells, claim_ids, events, lose, open_keys, pass_deadline, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis
    import redis.asyncio

    from penstock.settings import Settings

PREFIX = keys.queue_prefix(QUEUE)
LINE = f"{PREFIX}waiting:5:ann"
TENANTS = f"{PREFIX}tenants:5"
DEADLINES = f"{PREFIX}deadlines"
RETURNED = f"{PREFIX}returned"
OF_A_QUEUE = {
    "arrivals": [keys.arrivals(QUEUE)],
    "line": [LINE],
    "tenants": [TENANTS],
    "deadlines": [DEADLINES],
    "counters": [keys.counters(QUEUE)],
    "doorbells": [QUEUE],
    "returned": [RETURNED],
    "leases": [keys.leases(QUEUE)],
}
KINDS = {**OF_A_QUEUE, "all of them": [key for found in OF_A_QUEUE.values() for key in found]}


@pytest.fixture
async def reconciler(
    async_redis: redis.asyncio.Redis, redis_settings: Settings
) -> AsyncIterator[Reconciler]:
    reconciler = Reconciler(async_redis, redis_settings)
    yield reconciler
    await reconciler.stop()


async def mend(reconciler: Reconciler) -> list[Reconciled]:
    """Look at every job twice: the second time there is nothing left to do."""
    done = [one async for one in reconciler.run()]
    assert [one async for one in reconciler.run()] == []
    return done


@pytest.fixture
def endings(async_redis: redis.asyncio.Redis, redis_settings: Settings) -> UnclaimedEndings:
    return UnclaimedEndings(async_redis, redis_settings)


class Lost:
    """Deletes the keys of one kind, and has them put back."""

    def __init__(self, client: redis.Redis, reconciler: Reconciler, kind: str) -> None:
        self.redis, self._reconciler, self._keys = client, reconciler, KINDS[kind]

    async def mended(self) -> None:
        self.redis.delete(*self._keys)
        await mend(self._reconciler)


@pytest.fixture(params=KINDS)
def lost(redis_client: redis.Redis, reconciler: Reconciler, request: pytest.FixtureRequest) -> Lost:
    return Lost(redis_client, reconciler, request.param)


def ann(**fields: Any) -> dict[str, Any]:
    return {"tenant": "ann", "priority": 5, "cost_tokens": 10, **fields}


@pytest.fixture
def other(redis_client: redis.Redis, redis_settings: Settings) -> WorkerQueue:
    """A second worker."""
    return WorkerQueue(redis_client, redis_settings, "worker-2")


async def test_a_waiting_job(
    jobs: JobQueue,
    worker: WorkerQueue,
    lost: Lost,
) -> None:
    job = make_job(**ann())
    await jobs.submit(job)
    await lost.mended()
    worker.reap(QUEUE)
    depth = await jobs.depth(QUEUE)
    assert (depth.waiting_jobs, depth.waiting_tokens, bells(lost.redis)) == (1, 10, 1)
    assert claim_ids(worker) == [job.id]
    assert worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))]) == []
    assert open_keys(lost.redis) <= {QUEUE}


async def test_a_job_that_was_handed_back_is_still_the_first(
    jobs: JobQueue,
    worker: WorkerQueue,
    lost: Lost,
) -> None:
    first = await start(jobs, worker, written=3, **ann())
    later = make_job(**ann())
    await jobs.submit(later)
    assert worker.release(QUEUE, first.id, 1)
    await lost.mended()
    claim = worker.claim(QUEUE, only_returned=True)
    assert claim is not None
    assert (claim.job.id, claim.epoch, claim.next_index) == (first.id, 2, 3)
    assert claim_ids(worker) == [later.id]


async def test_a_job_whose_worker_lives_runs_once(
    jobs: JobQueue,
    worker: WorkerQueue,
    other: WorkerQueue,
    lost: Lost,
) -> None:
    job = await start(jobs, worker, written=2, **ann())
    await lost.mended()
    for _ in range(3):
        assert worker.renew(QUEUE, {job.id: 1}) == []
        other.reap(QUEUE)
        assert other.claim(QUEUE) is None
    assert worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 2))]) == []
    assert isinstance(events(lost.redis, job)[-1], Finished)
    assert open_keys(lost.redis) <= {QUEUE}


async def test_a_job_whose_worker_is_dead_goes_on(
    jobs: JobQueue,
    worker: WorkerQueue,
    other: WorkerQueue,
    lost: Lost,
) -> None:
    job = await start(jobs, worker, written=2, **ann())
    await lost.mended()
    assert other.claim(QUEUE) is None
    lose(other)  # the lease runs out as if it had always been there
    claim = other.claim(QUEUE)
    assert claim is not None
    assert (claim.job.id, claim.epoch, claim.next_index) == (job.id, 2, 2)
    assert (await jobs.state(job.id)).lost == 1


async def test_a_deadline_is_kept(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    waiting, running = make_job(), await start(jobs, worker)
    await jobs.submit(waiting)
    redis_client.delete(DEADLINES)
    (mended,) = await mend(reconciler)
    assert mended == Reconciled(QUEUE, 0, 0, 2)
    for job in (waiting, running):
        pass_deadline(redis_client, job)
    wait_until(lambda: worker.reap(QUEUE) and not redis_client.exists(DEADLINES))
    for job in (waiting, running):
        assert events(redis_client, job)[-1].code == "deadline_exceeded"


async def test_where_a_job_is_found(
    jobs: JobQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    job = make_job()
    await jobs.submit(job)
    redis_client.delete(keys.locate(job.id))
    await mend(reconciler)
    assert (await jobs.state(job.id)).status is JobStatus.WAITING
    assert redis_client.pttl(keys.locate(job.id)) > 60_000
    assert await jobs.cancel(job.id) == "cancelled"


async def test_an_answer_that_nobody_has_accounted_for(
    jobs: JobQueue,
    worker: WorkerQueue,
    endings: UnclaimedEndings,
    redis_client: redis.Redis,
    reconciler: Reconciler,
) -> None:
    job = await start(jobs, worker)
    assert worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))]) == []
    redis_client.delete(keys.unheard(QUEUE))
    await mend(reconciler)
    (ending,) = await endings.take(QUEUE, 0)
    assert ending.job == job
    await endings.forget(QUEUE, job.id)
    assert await mend(reconciler) == []
    assert await endings.take(QUEUE, 0) == []


async def test_a_job_that_is_gone_waits_no_more(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    for number in range(300):  # more than one look takes
        job = make_job(**ann())
        await jobs.submit(job)
        redis_client.delete(keys.job(QUEUE, job.id), *([LINE] if number == 299 else []))
    looks = 0
    while [one async for one in reconciler.run()]:
        looks += 1
    assert looks > 1
    depth = await jobs.depth(QUEUE)
    assert (depth.waiting_jobs, depth.waiting_tokens) == (0, 0)
    wait_until(lambda: worker.reap(QUEUE) and bells(redis_client) == 0)


async def test_after_a_loss_of_its_counters_a_queue_stays_fair(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    await start(jobs, worker, **ann(cost_tokens=1_000))
    first, second = make_job(**ann()), make_job(**ann())
    await jobs.submit(first)
    redis_client.delete(keys.counters(QUEUE))
    await mend(reconciler)
    await jobs.submit(second)
    for _ in range(3):
        await jobs.submit(make_job(**ann(tenant="bob")))
    assert (await jobs.depth(QUEUE)).waiting_tokens == 50
    order = claim_ids(worker)
    assert order.index(first.id) < order.index(second.id)
    assert order.index(first.id) <= 1, "a tenant that came later has no credit"


async def test_one_process_at_a_time(
    jobs: JobQueue,
    async_redis: redis.asyncio.Redis,
    redis_client: redis.Redis,
    redis_settings: Settings,
    reconciler: Reconciler,
) -> None:
    await jobs.submit(make_job())
    assert await mend(reconciler) == []
    redis_client.delete(keys.arrivals(QUEUE))
    second = Reconciler(async_redis, redis_settings)
    assert [one async for one in second.run()] == []
    assert redis_client.zcard(keys.arrivals(QUEUE)) == 0
    await reconciler.stop()
    assert [one.waiting async for one in second.run()] == [1]
    await second.stop()


async def test_keys_of_others_are_passed_over(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    job = make_job()
    await jobs.submit(job)
    with redis_client.pipeline(transaction=False) as pipeline:
        for number in range(3_000):
            pipeline.set(f"foreign:{number}", "x", ex=60)
        pipeline.set(f"{PREFIX}job:string", "x", ex=60)
        odd: dict[str, dict[Any, Any]] = {
            "empty": {"x": "y"},
            "half": {"state": "waiting", "deadline": "9" * 15},
            "words": {"state": "running", "deadline": "soon", "epoch": "many"},
        }
        for name, fields in odd.items():
            pipeline.hset(f"{PREFIX}job:{name}", mapping=fields)
            pipeline.expire(f"{PREFIX}job:{name}", 60)
        pipeline.hset("penstock:{other}:job:half", mapping={"state": "waiting"})
        pipeline.expire("penstock:{other}:job:half", 60)
        pipeline.set("penstock:{bad}:arrivals", "x", ex=60)
        pipeline.delete(keys.arrivals(QUEUE))
        pipeline.execute()
    (mended,) = await mend(reconciler)
    assert mended == Reconciled(QUEUE, 1, 0, 0)
    assert claim_ids(worker) == [job.id]


async def test_tokens_of_a_journal_that_is_gone_too(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, reconciler: Reconciler
) -> None:
    job = await start(jobs, worker, written=3)
    redis_client.delete(keys.leases(QUEUE), keys.journal(QUEUE, job.id))
    await mend(reconciler)
    lose(worker)
    claim = worker.claim(QUEUE)
    assert claim is not None
    assert (claim.epoch, claim.next_index) == (2, 0)
    assert worker.append(QUEUE, [Row(job.id, 2, tokens(job.id, 0, count=3))]) == []
