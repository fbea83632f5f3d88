from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Failed
from penstock.errors import QueueFull, StoreUnavailable, UnknownJob
from penstock.transport import journal, keys
from penstock.transport.queue import JobQueue, JobStatus, ReapResult, Refusal, Row, WorkerQueue
from penstock.transport.scripting import Scripts
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.contract.job import Job
    from penstock.settings import Settings


@pytest.fixture
def jobs(async_redis: redis.asyncio.Redis, redis_settings: Settings) -> JobQueue:
    return JobQueue(async_redis, redis_settings)


@pytest.fixture
def worker(redis_client: redis.Redis, redis_settings: Settings) -> WorkerQueue:
    return WorkerQueue(redis_client, redis_settings, "worker-1")


def claim_ids(worker: WorkerQueue) -> list[str]:
    """Claim all that waits; the ids in the order of their turns."""
    ids: list[str] = []
    while claim := worker.claim(QUEUE):
        ids.append(claim.job.id)
    return ids


def bells(client: redis.Redis) -> int:
    return client.llen(QUEUE)


def events(client: redis.Redis, job: Job) -> list[Any]:
    return journal.read(client, QUEUE, job.id)


def drop_bells(client: redis.Redis) -> None:
    """Do what a Celery worker does with its list."""
    client.delete(QUEUE)


def open_keys(client: redis.Redis) -> set[str]:
    """The keys that must be gone when no job is open."""
    names = ("tenants", "waiting", "arrivals", "leases", "deadlines")
    found = {key.decode() for key in client.scan_iter()}
    return {key for key in found if key == QUEUE or key.split("}:")[-1].split(":")[0] in names}


class TestLife:
    async def test_a_job_from_submit_to_its_end(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job(deadline_s=5_000)
        await jobs.submit(job)
        claim = worker.claim(QUEUE)
        assert claim
        worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
        for key in (keys.job(QUEUE, job.id), keys.journal(QUEUE, job.id), keys.locate(job.id)):
            assert 5_000 < redis_client.ttl(key) <= 5_600

        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 1))])
        assert redis_client.ttl(keys.job(QUEUE, job.id)) <= 600
        assert redis_client.ttl(keys.journal(QUEUE, job.id)) <= 600
        assert redis_client.hget(keys.job(QUEUE, job.id), "job") is None
        drop_bells(redis_client)

    async def test_every_key_of_a_waiting_job_expires_without_any_process(
        self, jobs: JobQueue, redis_client: redis.Redis
    ) -> None:
        await jobs.submit(make_job(deadline_s=100))
        left = {key.decode(): redis_client.ttl(key) for key in redis_client.scan_iter()}
        assert left.pop(QUEUE) == -1
        assert all(ttl > 0 for ttl in left.values()), left
        drop_bells(redis_client)

    async def test_submit_twice_is_one_job(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        assert await jobs.submit(job)
        assert not await jobs.submit(job)
        assert claim_ids(worker) == [job.id]
        assert not await jobs.submit(job)
        assert worker.claim(QUEUE) is None
        drop_bells(redis_client)

    async def test_unknown_jobs(self, jobs: JobQueue) -> None:
        for call in (jobs.state, jobs.cancel, jobs.locate):
            with pytest.raises(UnknownJob):
                await call("nobody")
        with pytest.raises(UnknownJob):
            await jobs.redirect("nobody", "somewhere")

    async def test_a_redirected_job_speaks_elsewhere(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job(reply="old")
        await jobs.submit(job)
        worker.claim(QUEUE)
        await jobs.redirect(job.id, "new")
        with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("old", "new")
            pubsub.get_message(timeout=1)
            pubsub.get_message(timeout=1)
            worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
            message = wait_until(lambda: pubsub.get_message(timeout=0.1))
            assert message["channel"] == b"new"
        drop_bells(redis_client)

    async def test_the_clock_is_redis_own(self, jobs: JobQueue, redis_client: redis.Redis) -> None:
        seconds, microseconds = redis_client.time()
        assert abs(await jobs.now_ms() - (seconds * 1000 + microseconds // 1000)) < 500


class TestBounds:
    async def test_a_full_queue_stores_nothing(
        self, async_redis: redis.asyncio.Redis, redis_settings: Settings, redis_client: redis.Redis
    ) -> None:
        jobs = JobQueue(async_redis, redis_settings.model_copy(update={"max_waiting_jobs": 2}))
        for _ in range(2):
            await jobs.submit(make_job())
        before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
        with pytest.raises(QueueFull) as full:
            await jobs.submit(make_job())
        assert full.value.retry_after_s == 5.0  # nothing has ended yet: no rate is known
        assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
        drop_bells(redis_client)

    async def test_the_bound_of_tokens(
        self, async_redis: redis.asyncio.Redis, redis_settings: Settings, redis_client: redis.Redis
    ) -> None:
        jobs = JobQueue(async_redis, redis_settings.model_copy(update={"max_waiting_tokens": 100}))
        await jobs.submit(make_job(cost_tokens=60))
        with pytest.raises(QueueFull):
            await jobs.submit(make_job(cost_tokens=41))
        await jobs.submit(make_job(cost_tokens=40))
        assert (await jobs.depth(QUEUE)).waiting_tokens == 100
        drop_bells(redis_client)

    async def test_a_job_above_the_bound_of_tokens_may_wait_alone(
        self, async_redis: redis.asyncio.Redis, redis_settings: Settings, redis_client: redis.Redis
    ) -> None:
        jobs = JobQueue(async_redis, redis_settings.model_copy(update={"max_waiting_tokens": 100}))
        assert await jobs.submit(make_job(cost_tokens=500))
        with pytest.raises(QueueFull):
            await jobs.submit(make_job(cost_tokens=1))
        drop_bells(redis_client)

    async def test_retry_after_comes_from_the_rate_of_finishes(
        self,
        async_redis: redis.asyncio.Redis,
        redis_settings: Settings,
        redis_client: redis.Redis,
        worker: WorkerQueue,
    ) -> None:
        jobs = JobQueue(async_redis, redis_settings.model_copy(update={"max_waiting_jobs": 1}))
        for _ in range(20):
            job = make_job()
            await jobs.submit(job)
            worker.claim(QUEUE)
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
        drop_bells(redis_client)

    async def test_a_redis_out_of_memory_refuses_new_jobs_and_finishes_old_ones(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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
        drop_bells(redis_client)


class TestFairness:
    async def submit(self, jobs: JobQueue, *specs: tuple[str, dict[str, Any]]) -> None:
        for job_id, fields in specs:
            await jobs.submit(make_job(id=job_id, **fields))

    async def test_lower_priority_numbers_first(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for priority in (5, 9, 0, 3, 5):
            await jobs.submit(make_job(priority=priority))
        claimed = []
        while claim := worker.claim(QUEUE):
            claimed.append(claim.job.priority)
        assert claimed == [0, 3, 5, 5, 9]
        drop_bells(redis_client)

    async def test_tenants_take_turns_and_keep_their_order(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for number in range(6):
            await self.submit(jobs, (f"flood-{number}", {"tenant": "flood", "cost_tokens": 10}))
        for number in range(2):
            await self.submit(jobs, (f"small-{number}", {"tenant": "small", "cost_tokens": 10}))
        assert claim_ids(worker) == [
            "flood-0", "small-0", "flood-1", "small-1", "flood-2", "flood-3", "flood-4", "flood-5",
        ]  # fmt: skip
        drop_bells(redis_client)

    async def test_turns_weigh_the_cost(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for number in range(3):
            await self.submit(jobs, (f"big-{number}", {"tenant": "big", "cost_tokens": 300}))
        for number in range(9):
            await self.submit(jobs, (f"small-{number}", {"tenant": "small", "cost_tokens": 100}))
        first = claim_ids(worker)[:8]
        assert sum(name.startswith("big") for name in first) == 2
        drop_bells(redis_client)

    async def test_a_tenant_that_comes_back_has_no_credit_for_its_absence(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for number in range(20):
            await self.submit(jobs, (f"busy-{number}", {"tenant": "busy", "cost_tokens": 10}))
        for _ in range(10):
            worker.claim(QUEUE)
        for number in range(5):
            await self.submit(jobs, (f"late-{number}", {"tenant": "late", "cost_tokens": 10}))
        order = [name.split("-")[0] for name in claim_ids(worker)[:8]]
        assert order.count("late") == order.count("busy")
        drop_bells(redis_client)

    async def test_a_tenant_does_not_shed_what_it_has_had_by_leaving(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for number in range(4):
            await self.submit(jobs, (f"steady-{number}", {"tenant": "steady", "cost_tokens": 10}))
        await self.submit(jobs, ("huge", {"tenant": "again", "cost_tokens": 25}))
        order = []
        for number in range(4):
            claim = worker.claim(QUEUE)
            assert claim
            order.append(claim.job.tenant)
            if claim.job.tenant == "again":  # its line is empty now, and it comes back at once
                await self.submit(jobs, (f"more-{number}", {"tenant": "again", "cost_tokens": 25}))
        assert order == ["again", "steady", "steady", "steady"]
        claim_ids(worker)
        drop_bells(redis_client)

    async def test_a_released_job_is_its_tenants_next(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for number in range(3):
            await self.submit(jobs, (f"a-{number}", {"tenant": "a", "cost_tokens": 10}))
        await self.submit(jobs, ("b-0", {"tenant": "b", "cost_tokens": 10}))
        first, second = worker.claim(QUEUE), worker.claim(QUEUE)
        assert first
        assert second
        assert (first.job.id, second.job.id) == ("a-0", "b-0")
        assert worker.release(QUEUE, "a-0", first.epoch)
        assert claim_ids(worker) == ["a-0", "a-1", "a-2"]
        drop_bells(redis_client)

    async def test_a_lost_turn_is_given_back(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        await self.submit(jobs, ("a-0", {"tenant": "a", "cost_tokens": 100}))
        for number in range(2):
            await self.submit(jobs, (f"b-{number}", {"tenant": "b", "cost_tokens": 10}))
        first, second = worker.claim(QUEUE), worker.claim(QUEUE)
        assert first
        assert second
        assert (first.job.id, second.job.id) == ("a-0", "b-0")
        assert worker.release(QUEUE, "a-0", first.epoch)
        assert claim_ids(worker) == ["a-0", "b-1"]
        drop_bells(redis_client)


class TestAppend:
    @pytest.fixture
    async def job(self, jobs: JobQueue, worker: WorkerQueue) -> Job:
        """A job of epoch 1 with two tokens."""
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0, count=2))])
        return job

    @pytest.fixture(autouse=True)
    def _tidy(self, redis_client: redis.Redis) -> Any:
        yield
        drop_bells(redis_client)

    async def test_a_stale_epoch_is_fenced(
        self, job: Job, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        assert worker.release(QUEUE, job.id, 1)
        fenced = [Refusal(job.id, "fenced")]
        assert worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2))]) == fenced
        claim = worker.claim(QUEUE)
        assert claim
        assert (claim.epoch, claim.next_index) == (2, 2)
        both = [Row(job.id, 1, tokens(job.id, 2)), Row(job.id, 1, finished(job.id, 3))]
        assert worker.append(QUEUE, both) == fenced
        assert worker.append(QUEUE, [Row(job.id, 2, tokens(job.id, 2))]) == []
        assert [event.index for event in events(redis_client, job)] == [0, 2]

    async def test_an_unknown_job_is_fenced(self, worker: WorkerQueue) -> None:
        assert worker.append(QUEUE, [Row("nobody", 1, tokens("nobody", 0))]) == [
            Refusal("nobody", "fenced")
        ]

    async def test_a_repeated_call_changes_nothing(
        self, job: Job, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        rows = [Row(job.id, 1, tokens(job.id, 2)), Row(job.id, 1, finished(job.id, 3))]
        for _ in range(2):
            assert worker.append(QUEUE, rows[:1]) == []
        for _ in range(2):
            assert worker.append(QUEUE, rows) == []
        assert [event.index for event in events(redis_client, job)] == [0, 2, 3]

    async def test_a_gap_hands_the_job_back_and_blames_nobody(
        self, job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        refused = worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 3))])
        assert refused == [Refusal(job.id, "fenced")]
        state = await jobs.state(job.id)
        assert (state.status, state.lost, state.next_index) == (JobStatus.WAITING, 0, 2)
        claim = worker.claim(QUEUE)
        assert claim
        assert claim.next_index == 2

    async def test_a_cancelled_job_ends_at_the_next_append(
        self, job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        assert await jobs.cancel(job.id) == "requested"
        assert (await jobs.state(job.id)).cancel_requested
        refused = worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2))])
        assert refused == [Refusal(job.id, "cancelled")]
        assert worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2))]) == refused
        last = events(redis_client, job)[-1]
        assert isinstance(last, Failed)
        assert (last.code, last.index) == ("cancelled", 2)
        assert await jobs.cancel(job.id) == "cancelled"

    async def test_past_its_deadline_a_job_ends_at_the_next_append(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job(deadline_s=0.1)
        await jobs.submit(job)
        assert worker.claim(QUEUE)
        wait_until(lambda: time.time() * 1000 > job.deadline_ms + 1)
        refused = worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
        assert refused == [Refusal(job.id, "expired")]
        (last,) = events(redis_client, job)
        assert isinstance(last, Failed)
        assert last.code == "deadline_exceeded"
        assert (await jobs.state(job.id)).status is JobStatus.EXPIRED

    async def test_failed_events_end_a_job(
        self, job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        event = Failed(job.id, 2, "engine_failed", "no more memory")
        assert worker.append(QUEUE, [Row(job.id, 1, event)]) == []
        assert events(redis_client, job)[-1] == event
        assert (await jobs.state(job.id)).status is JobStatus.FAILED

    async def test_one_message_a_channel(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        mine = [make_job(reply=f"channel-{number % 2}") for number in range(6)]
        for one in mine:
            await jobs.submit(one)
        claimed = claim_ids(worker)
        with redis_client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("channel-0", "channel-1")
            pubsub.get_message(timeout=1)
            pubsub.get_message(timeout=1)
            worker.append(QUEUE, [Row(job_id, 1, tokens(job_id, 0)) for job_id in claimed])
            messages = [wait_until(lambda: pubsub.get_message(timeout=0.1)) for _ in range(2)]
            assert pubsub.get_message(timeout=0.05) is None
        heard = {
            message["channel"].decode(): {event["job_id"] for event in json.loads(message["data"])}
            for message in messages
        }
        assert heard == {
            channel: {one.id for one in mine if one.reply == channel}
            for channel in ("channel-0", "channel-1")
        }

    async def test_an_event_without_tokens_is_a_mistake(
        self, job: Job, worker: WorkerQueue
    ) -> None:
        with pytest.raises(ValueError, match="without tokens"):
            worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2, count=0, text="x"))])

    async def test_nothing_to_write_needs_no_redis(self, worker: WorkerQueue) -> None:
        assert worker.append(QUEUE, []) == []
        assert worker.renew(QUEUE, {}) == []


class TestLeases:
    @pytest.fixture(autouse=True)
    def _tidy(self, redis_client: redis.Redis) -> Any:
        yield
        drop_bells(redis_client)

    def lose(self, worker: WorkerQueue) -> None:
        """Reap until a lease has run out; what has to come of it is the test's business."""
        wait_until(lambda: (reaped := worker.reap(QUEUE)).requeued + reaped.poisoned)

    async def test_a_repeated_claim_gives_the_same_job(
        self, jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
    ) -> None:
        for _ in range(2):
            await jobs.submit(make_job())
        scripts = Scripts(redis_client, redis_settings)
        first = scripts.run("claim", QUEUE, "w", "token-1", 10_000)
        assert scripts.run("claim", QUEUE, "w", "token-1", 10_000) == first
        other = scripts.run("claim", QUEUE, "w", "token-2", 10_000)
        assert other[0] != first[0]
        assert other[1] == first[1] == 1

    async def test_a_repeated_claim_of_a_job_that_was_reaped_takes_it_anew(
        self,
        jobs: JobQueue,
        worker: WorkerQueue,
        redis_client: redis.Redis,
        redis_settings: Settings,
    ) -> None:
        await jobs.submit(make_job())
        scripts = Scripts(redis_client, redis_settings)
        assert scripts.run("claim", QUEUE, "w", "token-1", 10_000)[1] == 1
        self.lose(worker)
        assert scripts.run("claim", QUEUE, "w", "token-1", 10_000)[1] == 2

    async def test_a_lost_workers_job_goes_on_at_its_next_token(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0, count=3))])
        drop_bells(redis_client)
        self.lose(worker)
        assert bells(redis_client) == 1
        assert (await jobs.state(job.id)).lost == 1
        claim = worker.claim(QUEUE)
        assert claim
        assert (claim.epoch, claim.next_index) == (2, 3)

    async def test_appends_and_renewals_keep_a_lease(
        self, jobs: JobQueue, worker: WorkerQueue
    ) -> None:
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
        self.lose(worker)

    async def test_poison(
        self,
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
            self.lose(worker)
        assert worker.claim(QUEUE) is None
        (last,) = events(redis_client, job)
        assert isinstance(last, Failed)
        assert (last.code, last.message) == ("poison_job", "the job took down 3 workers")
        assert (await jobs.state(job.id)).status is JobStatus.FAILED
        worker.reap(QUEUE)
        drop_bells(redis_client)
        assert open_keys(redis_client) == set()

    async def test_releases_do_not_poison(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        await jobs.cancel(job.id)
        for _ in range(2):
            assert worker.renew(QUEUE, {job.id: 1, "nobody": 1}) == [
                Refusal(job.id, "cancelled"),
                Refusal("nobody", "fenced"),
            ]
        assert len(events(redis_client, job)) == 1

    async def test_a_cancelled_job_whose_worker_died_ends(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        await jobs.cancel(job.id)
        wait_until(lambda: worker.reap(QUEUE) and events(redis_client, job))
        assert events(redis_client, job)[-1].code == "cancelled"

    async def test_a_released_job_that_is_cancelled_ends(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        await jobs.cancel(job.id)
        assert worker.release(QUEUE, job.id, 1)
        assert events(redis_client, job)[-1].code == "cancelled"


class TestCancelOfWaiting:
    async def test_it_is_out_at_once(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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

    async def test_it_takes_its_own_bell_only(
        self, jobs: JobQueue, redis_client: redis.Redis
    ) -> None:
        first, second = make_job(), make_job()
        await jobs.submit(first)
        await jobs.submit(second)
        await jobs.cancel(first.id)
        assert bells(redis_client) == 1
        redis_client.lpush(QUEUE, '{"headers": {"task": "somebody.elses"}}')
        await jobs.cancel(second.id)
        assert bells(redis_client) == 2  # the stranger is on top: it is left, and so is the bell
        drop_bells(redis_client)

    async def test_an_ended_job_tells_its_state(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
        worker.append(QUEUE, [Row(job.id, 1, finished(job.id, 0))])
        assert await jobs.cancel(job.id) == "finished"
        drop_bells(redis_client)


class TestReap:
    @pytest.fixture(autouse=True)
    def _tidy(self, redis_client: redis.Redis) -> Any:
        yield
        drop_bells(redis_client)

    async def test_the_deadline_of_a_waiting_job(
        self, jobs: JobQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job(deadline_s=0.1)
        await jobs.submit(job)
        while not (await jobs.reap(QUEUE)).expired:
            pass
        assert events(redis_client, job)[-1].code == "deadline_exceeded"
        assert (await jobs.state(job.id)).status is JobStatus.EXPIRED
        assert open_keys(redis_client) == set()

    async def test_the_deadline_of_a_running_job_without_a_word_from_its_worker(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job(deadline_s=0.1)
        await jobs.submit(job)
        worker.claim(QUEUE)
        wait_until(lambda: worker.reap(QUEUE).expired)
        assert events(redis_client, job)[-1].code == "deadline_exceeded"
        assert worker.renew(QUEUE, {job.id: 1}) == [Refusal(job.id, "expired")]
        late = [Row(job.id, 1, tokens(job.id, 0))]
        assert worker.append(QUEUE, late) == [Refusal(job.id, "expired")]

    async def test_a_claim_passes_over_what_is_past_its_deadline(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        late, good = make_job(deadline_s=0.05), make_job()
        await jobs.submit(late)
        await jobs.submit(good)
        wait_until(lambda: time.time() * 1000 > late.deadline_ms + 1)
        claim = worker.claim(QUEUE)
        assert claim
        assert claim.job.id == good.id
        assert events(redis_client, late)[-1].code == "deadline_exceeded"

    async def test_lost_bells_ring_again_and_surplus_ones_go(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for _ in range(5):
            await jobs.submit(make_job())
        drop_bells(redis_client)
        assert wait_until(lambda: worker.reap(QUEUE).rung) == 5
        assert bells(redis_client) == 5
        claim_ids(worker)
        wait_until(lambda: worker.reap(QUEUE) and bells(redis_client) == 0)

    async def test_a_run_rings_a_bounded_number_of_bells(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        for _ in range(100):
            await jobs.submit(make_job())
        drop_bells(redis_client)
        assert wait_until(lambda: worker.reap(QUEUE).rung) == 64
        assert wait_until(lambda: worker.reap(QUEUE).rung) == 36

    async def test_many_reapers_do_what_one_does(
        self, jobs: JobQueue, redis_client: redis.Redis, redis_settings: Settings
    ) -> None:
        settings = redis_settings.model_copy(update={"lease_ms": 10_000})  # a run in 500 ms
        workers = [WorkerQueue(redis_client, settings, f"w{number}") for number in range(5)]
        await jobs.submit(make_job())
        rung = 0
        for worker in workers:
            drop_bells(redis_client)
            rung += worker.reap(QUEUE).rung
        assert rung == 1

    async def test_leases_that_ran_out_while_redis_was_away_get_one_more(
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        job = make_job()
        await jobs.submit(job)
        worker.claim(QUEUE)
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
        self, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
    ) -> None:
        worker.reap("nothing-cpu")
        await jobs.reap("nothing-cpu")
        assert worker.claim("nothing-cpu") is None
        assert (await jobs.depth("nothing-cpu")).waiting_jobs == 0
        assert redis_client.dbsize() == 0
