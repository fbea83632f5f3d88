"""Whose turn it is: priorities, then tenants by what they have had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.transport.store.scripting import Scripts
from tests.fixtures.jobs import QUEUE, make_job
from tests.fixtures.queues import claim_ids, open_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    import redis.asyncio

    from penstock.settings import Settings
    from penstock.transport.jobs.queue import JobQueue, WorkerQueue


MANY = 10_000


async def submit(jobs: JobQueue, *specs: tuple[str, dict[str, Any]]) -> None:
    for job_id, fields in specs:
        await jobs.submit(make_job(id=job_id, **fields))


async def test_lower_priority_numbers_first(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for priority in (5, 9, 0, 3, 5):
        await jobs.submit(make_job(priority=priority))
    claimed = []
    while claim := worker.claim(QUEUE):
        claimed.append(claim.job.priority)
    assert claimed == [0, 3, 5, 5, 9]


async def test_tenants_take_turns_and_keep_their_order(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(6):
        await submit(jobs, (f"flood-{number}", {"tenant": "flood", "cost_tokens": 10}))
    for number in range(2):
        await submit(jobs, (f"small-{number}", {"tenant": "small", "cost_tokens": 10}))
    assert claim_ids(worker) == [
        "flood-0", "small-0", "flood-1", "small-1", "flood-2", "flood-3", "flood-4", "flood-5",
    ]  # fmt: skip


async def test_turns_weigh_the_cost(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(3):
        await submit(jobs, (f"big-{number}", {"tenant": "big", "cost_tokens": 300}))
    for number in range(9):
        await submit(jobs, (f"small-{number}", {"tenant": "small", "cost_tokens": 100}))
    first = claim_ids(worker)[:8]
    assert sum(name.startswith("big") for name in first) == 2


async def test_a_tenant_that_comes_back_has_no_credit_for_its_absence(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(20):
        await submit(jobs, (f"busy-{number}", {"tenant": "busy", "cost_tokens": 10}))
    for _ in range(10):
        worker.claim(QUEUE)
    for number in range(5):
        await submit(jobs, (f"late-{number}", {"tenant": "late", "cost_tokens": 10}))
    order = [name.split("-")[0] for name in claim_ids(worker)[:8]]
    assert order.count("late") == order.count("busy")


async def test_a_tenant_does_not_shed_what_it_has_had_by_leaving(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(4):
        await submit(jobs, (f"steady-{number}", {"tenant": "steady", "cost_tokens": 10}))
    await submit(jobs, ("huge", {"tenant": "again", "cost_tokens": 25}))
    order = []
    for number in range(4):
        claim = worker.claim(QUEUE)
        assert claim
        order.append(claim.job.tenant)
        if claim.job.tenant == "again":  # its line is empty now, and it comes back at once
            await submit(jobs, (f"more-{number}", {"tenant": "again", "cost_tokens": 25}))
    assert order == ["again", "steady", "steady", "steady"]
    claim_ids(worker)


async def test_a_released_job_is_its_tenants_next(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(3):
        await submit(jobs, (f"a-{number}", {"tenant": "a", "cost_tokens": 10}))
    await submit(jobs, ("b-0", {"tenant": "b", "cost_tokens": 10}))
    first, second = worker.claim(QUEUE), worker.claim(QUEUE)
    assert first
    assert second
    assert (first.job.id, second.job.id) == ("a-0", "b-0")
    assert worker.release(QUEUE, "a-0", first.epoch)
    assert claim_ids(worker) == ["a-0", "a-1", "a-2"]


async def test_a_lost_turn_is_given_back(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    await submit(jobs, ("a-0", {"tenant": "a", "cost_tokens": 100}))
    for number in range(2):
        await submit(jobs, (f"b-{number}", {"tenant": "b", "cost_tokens": 10}))
    first, second = worker.claim(QUEUE), worker.claim(QUEUE)
    assert first
    assert second
    assert (first.job.id, second.job.id) == ("a-0", "b-0")
    assert worker.release(QUEUE, "a-0", first.epoch)
    assert claim_ids(worker) == ["a-0", "b-1"]


async def test_what_a_worker_had_goes_before_what_none_had(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    await submit(jobs, ("a-0", {"tenant": "a", "cost_tokens": 100}))
    await submit(jobs, ("b-0", {"tenant": "b", "cost_tokens": 10}))
    first, second = worker.claim(QUEUE), worker.claim(QUEUE)
    assert first
    assert second
    for number in range(1, 3):
        await submit(jobs, (f"c-{number}", {"tenant": "c", "cost_tokens": 1}))
        await submit(jobs, (f"b-{number}", {"tenant": "b", "cost_tokens": 10}))
    await submit(jobs, ("urgent", {"tenant": "d", "priority": 1}))
    assert worker.release(QUEUE, "b-0", second.epoch)
    assert worker.release(QUEUE, "a-0", first.epoch)
    assert claim_ids(worker) == ["urgent", "a-0", "b-0", "c-1", "c-2", "b-1", "b-2"]


async def test_spare_places_take_nothing_but_what_a_worker_had(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for number in range(2):
        await submit(jobs, (f"a-{number}", {"priority": 5}))
    await submit(jobs, ("new", {"priority": 0}))
    for _ in range(3):
        assert worker.claim(QUEUE)
    assert worker.release(QUEUE, "a-1", 1)
    await submit(jobs, ("newer", {"priority": 0}))
    claim = worker.claim(QUEUE, only_returned=True)
    assert claim
    assert (claim.job.id, claim.epoch) == ("a-1", 2)
    assert worker.claim(QUEUE, only_returned=True) is None
    assert claim_ids(worker) == ["newer"]


async def test_a_returned_job_that_is_cancelled_is_not_looked_for(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    await submit(jobs, ("a-0", {}))
    assert worker.claim(QUEUE)
    assert worker.release(QUEUE, "a-0", 1)
    assert await jobs.cancel("a-0") == "cancelled"
    assert worker.claim(QUEUE, only_returned=True) is None
    assert open_keys(redis_client) <= {QUEUE}  # bells at most


async def test_thousands_of_jobs_of_one_tenant_delay_anothers_by_one_turn(
    jobs_with: Callable[..., JobQueue],
    worker: WorkerQueue,
    redis_client: redis.Redis,
    redis_settings: Settings,
) -> None:
    bounds = {"max_waiting_jobs": 20_000, "max_waiting_tokens": 100_000_000}
    jobs = jobs_with(**bounds)
    await jobs.submit(make_job(tenant="flood", cost_tokens=500, deadline_s=600.0))
    submit_thousands(redis_client, redis_settings.model_copy(update=bounds), MANY - 1)
    for _ in range(16):  # all slots of a worker
        worker.claim(QUEUE)
    modest = make_job(tenant="modest", cost_tokens=500, deadline_s=600.0)
    await jobs.submit(modest)
    assert (await jobs.depth(QUEUE)).waiting_jobs == MANY - 16 + 1
    turns = [worker.claim(QUEUE) for _ in range(2)]
    assert modest in [claim.job for claim in turns if claim]


def submit_thousands(client: redis.Redis, settings: Settings, count: int) -> None:
    """Run `submit` for so many jobs of one tenant, a thousand a round trip: the API's takes 10 s."""
    for start in range(0, count, 1000):
        pipeline = client.pipeline(transaction=False)
        scripts = Scripts(cast("redis.Redis", pipeline), settings)
        for _ in range(start, min(start + 1000, count)):
            job = make_job(tenant="flood", cost_tokens=500, deadline_s=600.0)
            scripts.run(
                "submit", QUEUE, job.id, msgspec.json.encode(job), job.reply, job.tenant,
                job.priority, job.cost_tokens, job.deadline_ms, settings.max_waiting_jobs,
                settings.max_waiting_tokens, job.digest,
            )  # fmt: skip
        assert pipeline.execute() == [[1]] * (min(start + 1000, count) - start)
