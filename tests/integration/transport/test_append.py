"""Writing events: what is refused, and what a repeated call does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock.contract.events import Failed
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, JobStatus, Refusal, Row, WorkerQueue
from tests.fixtures.jobs import QUEUE, finished, make_job, tokens, wait_until
from tests.fixtures.queues import claim_ids, events, pass_deadline, start

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.contract.job import Job


@pytest.fixture
async def job(jobs: JobQueue, worker: WorkerQueue) -> Job:
    """A job of epoch 1 with two tokens."""
    return await start(jobs, worker, written=2)


async def test_a_stale_epoch_is_fenced(
    job: Job, worker: WorkerQueue, redis_client: redis.Redis
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


async def test_an_unknown_job_is_fenced(worker: WorkerQueue) -> None:
    assert worker.append(QUEUE, [Row("nobody", 1, tokens("nobody", 0))]) == [
        Refusal("nobody", "fenced")
    ]


async def test_a_repeated_call_changes_nothing(
    job: Job, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    rows = [Row(job.id, 1, tokens(job.id, 2)), Row(job.id, 1, finished(job.id, 3))]
    for _ in range(2):
        assert worker.append(QUEUE, rows[:1]) == []
    for _ in range(2):
        assert worker.append(QUEUE, rows) == []
    assert [event.index for event in events(redis_client, job)] == [0, 2, 3]


async def test_a_gap_hands_the_job_back_and_blames_no_worker(
    job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    refused = worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 3))])
    assert refused == [Refusal(job.id, "fenced")]
    state = await jobs.state(job.id)
    assert (state.status, state.lost, state.next_index) == (JobStatus.WAITING, 0, 2)
    claim = worker.claim(QUEUE)
    assert claim
    assert claim.next_index == 2


@pytest.mark.parametrize("is_claimed_again", [False, True], ids=["it goes on", "its worker dies"])
async def test_a_deleted_journal_is_written_again(
    job: Job,
    jobs: JobQueue,
    worker: WorkerQueue,
    redis_client: redis.Redis,
    is_claimed_again: bool,
) -> None:
    """Its tokens are gone, so the answer is generated again from the first of them."""
    redis_client.delete(keys.journal(QUEUE, job.id))
    if is_claimed_again:
        assert worker.release(QUEUE, job.id, 1)
    else:
        row = Row(job.id, 1, tokens(job.id, 2))
        assert worker.append(QUEUE, [row]) == [Refusal(job.id, "fenced")]
    claim = worker.claim(QUEUE)
    assert claim
    assert (claim.epoch, claim.next_index) == (2, 0)
    assert worker.append(QUEUE, [Row(job.id, 2, tokens(job.id, 0, count=2))]) == []
    assert (await jobs.state(job.id)).next_index == 2
    assert redis_client.ttl(keys.journal(QUEUE, job.id)) > 0


async def test_a_journal_without_its_beginning_is_written_again(
    job: Job, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2))])
    redis_client.xdel(keys.journal(QUEUE, job.id), "1-0")
    assert worker.release(QUEUE, job.id, 1)
    claim = worker.claim(QUEUE)
    assert claim
    assert claim.next_index == 0
    assert not redis_client.exists(keys.journal(QUEUE, job.id))


async def test_a_cancelled_job_ends_at_the_next_append(
    job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    job = await start(jobs, worker)
    pass_deadline(redis_client, job)
    refused = worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 0))])
    assert refused == [Refusal(job.id, "expired")]
    (last,) = events(redis_client, job)
    assert isinstance(last, Failed)
    assert last.code == "deadline_exceeded"
    assert (await jobs.state(job.id)).status is JobStatus.EXPIRED


async def test_failed_events_end_a_job(
    job: Job, jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
) -> None:
    event = Failed(job.id, 2, "engine_failed", "no more memory")
    assert worker.append(QUEUE, [Row(job.id, 1, event)]) == []
    assert events(redis_client, job)[-1] == event
    assert (await jobs.state(job.id)).status is JobStatus.FAILED


async def test_one_message_a_channel(
    jobs: JobQueue, worker: WorkerQueue, redis_client: redis.Redis
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


async def test_an_event_without_tokens_is_a_mistake(job: Job, worker: WorkerQueue) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        worker.append(QUEUE, [Row(job.id, 1, tokens(job.id, 2, count=0, text="x"))])


async def test_nothing_to_write_needs_no_redis(worker: WorkerQueue) -> None:
    assert worker.append(QUEUE, []) == []
    assert worker.renew(QUEUE, {}) == []
