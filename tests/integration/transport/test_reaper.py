"""What the reaper puts right: deadlines, lost bells, leases of an outage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, ReapResult, Refusal, Row, WorkerQueue
from tests.fixtures.jobs import QUEUE, make_job, tokens, wait_until
from tests.fixtures.queues import (
    bells,
    claim_ids,
    drop_bells,
    events,
    open_keys,
    pass_deadline,
    start,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings


async def test_the_deadline_of_a_waiting_job(jobs: JobQueue, redis_client: redis.Redis) -> None:
    job = make_job()
    await jobs.submit(job)
    pass_deadline(redis_client, job)
    assert (await jobs.reap(QUEUE)).expired == 1
    assert events(redis_client, job)[-1].code == "deadline_exceeded"
    assert (await jobs.state(job.id)).status is JobStatus.EXPIRED
    assert open_keys(redis_client) == set()


async def test_the_deadline_of_a_running_job_without_a_word_from_its_worker(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    pass_deadline(redis_client, job)
    assert worker.reap(QUEUE).expired == 1
    assert events(redis_client, job)[-1].code == "deadline_exceeded"
    assert worker.renew(QUEUE, {job.id: 1}) == [Refusal(job.id, "expired")]
    late = [Row(job.id, 1, tokens(job.id, 0))]
    assert worker.append(QUEUE, late) == [Refusal(job.id, "expired")]


async def test_a_claim_passes_over_what_is_past_its_deadline(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    late, good = make_job(), make_job()
    await jobs.submit(late)
    await jobs.submit(good)
    pass_deadline(redis_client, late)
    claim = worker.claim(QUEUE)
    assert claim
    assert claim.job.id == good.id
    assert events(redis_client, late)[-1].code == "deadline_exceeded"


async def test_lost_bells_ring_again_and_surplus_ones_go(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for _ in range(5):
        await jobs.submit(make_job())
    drop_bells(redis_client)
    assert wait_until(lambda: worker.reap(QUEUE).rung) == 5
    assert bells(redis_client) == 5
    claim_ids(worker)
    wait_until(lambda: worker.reap(QUEUE) and bells(redis_client) == 0)


async def test_a_run_rings_a_bounded_number_of_bells(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    for _ in range(100):
        await jobs.submit(make_job())
    drop_bells(redis_client)
    assert wait_until(lambda: worker.reap(QUEUE).rung) == 64
    assert wait_until(lambda: worker.reap(QUEUE).rung) == 36


async def test_a_whole_rack_that_died_is_put_right_by_one_call(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    # Leases that outlast the start of so many: none may run out before all of them do.
    settings = redis_settings.model_copy(update={"lease_ms": 60_000})
    worker = WorkerQueue(redis_client, settings, "worker-1")
    for _ in range(150):
        await start(jobs, worker)
    worker.reap(QUEUE)
    leased: Any = redis_client.zrange(keys.leases(QUEUE), 0, -1)
    for job_id in leased:
        redis_client.zadd(keys.leases(QUEUE), {job_id: 1})
    assert wait_until(lambda: worker.reap(QUEUE).requeued) == 150


async def test_many_reapers_do_what_one_does(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(update={"lease_ms": 10_000})  # a run in 250 ms
    workers = [WorkerQueue(redis_client, settings, f"w{number}") for number in range(5)]
    await jobs.submit(make_job())
    rung = 0
    for worker in workers:
        drop_bells(redis_client)
        rung += worker.reap(QUEUE).rung
    assert rung == 1


async def test_a_lease_that_is_over_does_not_wait_for_the_next_run(
    jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(update={"lease_ms": 10_000})  # a run in 250 ms
    worker = WorkerQueue(redis_client, settings, "worker-1")
    job = await start(jobs, worker)
    left_s = worker.reap(QUEUE).next_end_s
    assert left_s is not None
    assert 5.0 < left_s <= 10.0
    redis_client.zadd(keys.leases(QUEUE), {job.id: 1})
    reaped = worker.reap(QUEUE)
    assert (reaped.requeued, reaped.next_end_s) == (1, None)


async def test_leases_that_ran_out_while_redis_was_away_get_one_more(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    worker.reap(QUEUE)
    leases = f"{keys.queue_prefix(QUEUE)}leases"
    counters = f"{keys.queue_prefix(QUEUE)}counters"

    def reap_after_an_outage() -> ReapResult:
        redis_client.zincrby(leases, -5_000, job.id)
        redis_client.hincrby(counters, "reaped", -5_000)
        return worker.reap(QUEUE)

    assert reap_after_an_outage().requeued == 0
    assert worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))]) == []
    # It is given once: with nobody to renew, the next run takes the job away.
    assert reap_after_an_outage().requeued == 1


async def test_an_unknown_queue_leaves_no_trace(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    worker.reap("nothing-cpu")
    await jobs.reap("nothing-cpu")
    assert worker.claim("nothing-cpu") is None
    assert (await jobs.depth("nothing-cpu")).waiting_jobs == 0
    assert list(redis_client.scan_iter()) == [keys.STORE.encode()]
