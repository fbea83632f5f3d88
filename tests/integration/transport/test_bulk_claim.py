"""Several jobs claimed in one call: the same turns, each with its own lease, and no bell too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.contract.events import Tokens
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Row, WorkerQueue
from penstock.transport.store.scripting import Scripts
from tests.fixtures.jobs import QUEUE, make_job, tokens
from tests.fixtures.queues import bells, claim_ids, drop_bells, lose, open_keys

if TYPE_CHECKING:
    import redis

    from penstock.settings import Settings


async def submit(jobs: JobQueue, count: int, tenant: str = "a", **fields: int) -> list[str]:
    made = [make_job(id=f"{tenant}-{n}", tenant=tenant, **fields) for n in range(count)]
    for job in made:
        await jobs.submit(job)
    return [job.id for job in made]


def claim(worker: WorkerQueue, most: int, *, least: int = 1, held: int = 0) -> list[str]:
    found = worker.claim_many(QUEUE, most, least=least, held=held)
    return [one.job.id for one in found.claims]


async def test_the_turns_are_those_of_single_claims(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    specs = [("a", 30), ("b", 10), ("c", 10)]
    for tenant, cost in specs:
        await submit(jobs, 4, tenant, cost_tokens=cost)
    await jobs.submit(make_job(id="urgent", priority=1))
    in_bulk = [*claim(worker, 5), *claim(worker, 5), *claim(worker, 5)]
    drop_bells(redis_client)
    redis_client.flushdb()
    for tenant, cost in specs:
        await submit(jobs, 4, tenant, cost_tokens=cost)
    await jobs.submit(make_job(id="urgent", priority=1))
    assert in_bulk == claim_ids(worker)
    assert len(in_bulk) == 13


async def test_each_has_a_lease_of_its_own(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    first, second, third = await submit(jobs, 3)
    assert claim(worker, 3) == [first, second, third]
    assert worker.append(QUEUE, [Row(first, 1, tokens(first, 0, count=2))]) == []
    assert worker.release(QUEUE, second, 1)
    while redis_client.zcard(keys.leases(QUEUE)):
        lose(worker)
    other = WorkerQueue(redis_client, redis_settings, "worker-2")
    found = other.claim_many(QUEUE, 5, least=1, held=0)
    assert sorted((one.job.id, one.epoch, one.next_index) for one in found.claims) == [
        (first, 2, 2), (second, 2, 0), (third, 2, 0),
    ]  # fmt: skip
    assert [(await jobs.state(one)).lost for one in (first, second, third)] == [1, 0, 1]
    late = Tokens(first, 2, (9,), "late")
    assert [one.reason for one in worker.append(QUEUE, [Row(first, 1, late)])] == ["fenced"]


async def test_a_repeated_call_gives_the_same_jobs_and_epochs(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    names = await submit(jobs, 3)
    scripts = Scripts(redis_client, redis_settings)

    def call() -> list[tuple[str, int]]:
        _, *found = scripts.run("claim", QUEUE, "worker-1", "token", 10_000, 0, 2, 1, 0)
        return [(payload, epoch) for payload, epoch, *_ in found]

    first = call()
    assert len(first) == 2
    assert call() == first
    assert (await jobs.depth(QUEUE)).waiting_jobs == 1
    # What is over or somebody else's by then is left out; a claim that has none left is a new one.
    worker = WorkerQueue(redis_client, redis_settings, "worker-1")
    assert worker.release(QUEUE, names[0], 1)
    assert call() == first[1:]
    assert worker.release(QUEUE, names[1], 1)
    assert [epoch for _, epoch in call()] == [2, 2]


async def test_bells_that_no_job_needs_go_and_no_other(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    await submit(jobs, 5)
    redis_client.rpop(QUEUE)  # the worker's own
    assert len(claim(worker, 3)) == 3
    assert bells(redis_client) == 2
    for _ in range(2):
        redis_client.rpop(QUEUE)  # that other workers hold
    assert len(claim(worker, 1)) == 1
    assert bells(redis_client) == 0
    redis_client.lpush(QUEUE, '{"headers": {"task": "of somebody else"}}')
    assert len(claim(worker, 1)) == 1
    assert bells(redis_client) == 1


async def test_of_several_workers_each_takes_its_share(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    await submit(jobs, 9)
    names = ("w1", "w2", "w3")
    redis_client.zadd(keys.workers_of(QUEUE), dict.fromkeys(names, "+inf"))
    redis_client.zadd(keys.workers_of(QUEUE), {"dead": 1})
    redis_client.expire(keys.workers_of(QUEUE), 60)
    first, second, third = (WorkerQueue(redis_client, redis_settings, name) for name in names)
    assert len(claim(first, 16)) == 3
    # One that has its share gets more for a bell only, and one job for one bell.
    found = first.claim_many(QUEUE, 16, least=0, held=3)
    assert (len(found.claims), found.waiting) == (0, 6)
    assert len(claim(first, 16, held=3)) == 1
    assert len(claim(second, 16)) == 3
    assert len(claim(third, 16)) == 2


async def test_one_that_is_past_its_deadline_is_ended_on_the_way(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    names = await submit(jobs, 3)
    redis_client.hset(keys.job(QUEUE, names[1]), "deadline", 1)
    found = worker.claim_many(QUEUE, 3, least=1, held=0)
    assert [one.job.id for one in found.claims] == [names[0], names[2]]
    assert found.waiting == 0
    assert (await jobs.state(names[1])).status is JobStatus.EXPIRED


async def test_nothing_waits(worker: WorkerQueue, redis_client: redis.Redis) -> None:
    found = worker.claim_many(QUEUE, 16, least=1, held=0)
    assert (found.claims, found.waiting) == ((), 0)
    assert open_keys(redis_client) == set()
