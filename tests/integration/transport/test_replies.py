from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from penstock.contract.events import Event, Finished, Tokens
from penstock.contract.tokenizer_calls import Detokenize, TokenizerCall, TokenizerReply
from penstock.errors import InvalidParameter, NoWorker, QueueFull, UnknownJob
from penstock.transport import keys
from penstock.transport.jobs.queue import JobQueue, Row, WorkerQueue
from penstock.transport.replies import follower, tokenizer_calls
from penstock.transport.replies.replies import Replies
from penstock.transport.store.connection import connect, connect_async
from tests.fixtures.jobs import (
    QUEUE,
    finished,
    make_job,
    tokens,
    wait_until_async,
)
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import redis
    import redis.asyncio

    from penstock.contract.job import Job
    from penstock.settings import Settings


@pytest.fixture
async def replies(
    async_redis: redis.asyncio.Redis, redis_settings: Settings
) -> AsyncIterator[Replies]:
    replies = Replies(async_redis, redis_settings)
    await replies.start()
    assert replies.connected
    yield replies
    await replies.stop()


@pytest.fixture
def settings(redis_settings: Settings) -> Settings:
    """Leases do not run out here."""
    return redis_settings.model_copy(update={"lease_ms": 60_000})


class Writer:
    """A worker with one job or more."""

    def __init__(self, client: redis.Redis, jobs: JobQueue, settings: Settings) -> None:
        self.client = client
        self.jobs = jobs
        self.queue = WorkerQueue(client, settings, "writer")

    async def begin(self, replies: Replies, *, expected: bool = False, **fields: Any) -> Job:
        job = make_job(reply=replies.channel, **fields)
        if expected:
            replies.expect(job.queue, job.id)
        await self.jobs.submit(job)
        assert self.queue.claim(QUEUE)
        self.client.delete(QUEUE)
        return job

    def write(self, *events: Event) -> None:
        assert self.queue.append(QUEUE, [Row(one.job_id, 1, one) for one in events]) == []

    def write_silently(self, job: Job, *events: Event) -> None:
        """Write what no subscriber hears: lost pub/sub messages."""
        reply = self.client.hget(keys.job(QUEUE, job.id), "reply")
        assert reply
        self.client.hset(keys.job(QUEUE, job.id), "reply", "nobody")
        self.write(*events)
        self.client.hset(keys.job(QUEUE, job.id), "reply", reply)


@pytest.fixture
def writer(
    redis_client: redis.Redis, async_redis: redis.asyncio.Redis, settings: Settings
) -> Writer:
    return Writer(redis_client, JobQueue(async_redis, settings), settings)


async def collect(replies: Replies, job: Job, *, tick_s: float = 60.0) -> list[Event | None]:
    async with aclosing(replies.follow(job.queue, job.id, tick_s=tick_s)) as stream:
        return [event async for event in stream]


def indices(events: list[Event | None]) -> list[int]:
    return [event.index for event in events if event is not None]


async def publish(async_redis: redis.asyncio.Redis, channel: str, *events: Event) -> None:
    await async_redis.publish(channel, msgspec.json.encode(events))


class TestExpected:
    async def test_what_came_before_its_follower_is_kept_and_no_journal_read(
        self, replies: Replies, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = await writer.begin(replies, expected=True)
        writer.write(tokens(job.id, 0, count=2))
        await wait_until_async(replies._followers.expected[job.id].has_live_events)
        monkeypatch.setattr(replies, "_read", None)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        assert not replies._followers.expected
        writer.write(tokens(job.id, 2), finished(job.id, 3))
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 2, 3]

    async def test_more_than_is_kept_comes_from_the_journal(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies, expected=True)
        count = follower.BUFFER_EVENTS + 40
        for index in range(count):
            writer.write(tokens(job.id, index))
        writer.write(finished(job.id, count))
        await wait_until_async(lambda: replies._followers.expected[job.id].stale)
        assert indices(await collect(replies, job)) == list(range(count + 1))

    async def test_what_no_subscriber_heard_comes_from_the_journal(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies, expected=True)
        writer.write_silently(job, tokens(job.id, 0))
        writer.write(tokens(job.id, 1), finished(job.id, 2))
        assert indices(await asyncio.wait_for(collect(replies, job), 5)) == [0, 1, 2]

    async def test_a_silent_loss_is_looked_for(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies, expected=True)
        writer.write_silently(job, tokens(job.id, 0), finished(job.id, 1))
        assert indices(await asyncio.wait_for(collect(replies, job), 5)) == [0, 1]

    async def test_a_connection_lost_meanwhile_has_the_journal_read(
        self, replies: Replies, writer: Writer, redis_client: redis.Redis
    ) -> None:
        job = await writer.begin(replies, expected=True)
        redis_client.client_kill_filter(_type="pubsub")
        writer.write(tokens(job.id, 0))
        await wait_until_async(lambda: replies._followers.expected[job.id].stale)
        writer.write(finished(job.id, 1))
        assert indices(await asyncio.wait_for(collect(replies, job), 5)) == [0, 1]

    async def test_a_job_that_was_refused_is_forgotten(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies, expected=True)
        replies.forget(job.id)
        replies.forget("never heard of")
        writer.write(tokens(job.id, 0), finished(job.id, 1))
        assert indices(await collect(replies, job)) == [0, 1]
        assert not replies._followers.expected


class TestFollow:
    async def test_live_events_and_the_end(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        written = [tokens(job.id, 0, count=2), tokens(job.id, 2), finished(job.id, 3)]
        for event in written:
            writer.write(event)
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(stream, 5) == written
        assert replies.following == 0

    async def test_events_from_before_the_follower_came(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies)
        written = [tokens(job.id, index) for index in range(600)]  # more than a page
        writer.write(*written, finished(job.id, 600))
        assert indices(await collect(replies, job)) == list(range(601))

    async def test_repeated_events_come_once(
        self, replies: Replies, writer: Writer, async_redis: redis.asyncio.Redis
    ) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        writer.write(tokens(job.id, 0, count=3))
        for _ in range(2):
            await publish(async_redis, replies.channel, tokens(job.id, 0, count=3))
        writer.write(tokens(job.id, 3), finished(job.id, 4))
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 3, 4]

    async def test_a_gap_is_filled_from_the_journal_before_the_next_event(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        writer.write(tokens(job.id, 0))
        await asyncio.sleep(0.05)
        writer.write_silently(job, tokens(job.id, 1), tokens(job.id, 2, count=2))
        writer.write(tokens(job.id, 4))
        writer.write(finished(job.id, 5))
        started = asyncio.get_running_loop().time()
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 1, 2, 4, 5]
        assert asyncio.get_running_loop().time() - started < 0.8  # not by waiting for silence

    async def test_a_lost_tail_is_found(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        writer.write(tokens(job.id, 0))
        writer.write_silently(job, tokens(job.id, 1), finished(job.id, 2))
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 1, 2]

    async def test_a_stream_goes_on_at_another_process(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies)
        writer.client.hset(keys.job(QUEUE, job.id), "reply", "a process that is gone")
        writer.write(tokens(job.id, 0, count=2))
        await writer.jobs.redirect(job.id, replies.channel)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        for index in range(2, 5):
            writer.write(tokens(job.id, index))
            await asyncio.sleep(0.01)
        writer.write(finished(job.id, 5))
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 2, 3, 4, 5]

    async def test_two_followers_of_one_job(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies)
        streams = [asyncio.create_task(collect(replies, job)) for _ in range(2)]
        await wait_until_async(lambda: replies.following == 2)
        writer.write(tokens(job.id, 0), finished(job.id, 1))
        assert [indices(one) for one in await asyncio.gather(*streams)] == [[0, 1], [0, 1]]

    async def test_ticks_of_silence(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies)
        async with aclosing(replies.follow(QUEUE, job.id, tick_s=0.2)) as stream:
            assert [await anext(stream) for _ in range(2)] == [None, None]
            writer.write(tokens(job.id, 0))
            assert await anext(stream) == tokens(job.id, 0)
            assert await anext(stream) is None

    async def test_an_unknown_job(self, replies: Replies) -> None:
        with pytest.raises(UnknownJob):
            await collect(replies, make_job())
        assert replies.following == 0

    async def test_a_job_whose_keys_go_away(self, replies: Replies, writer: Writer) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        writer.client.flushall()
        with pytest.raises(UnknownJob):
            await asyncio.wait_for(stream, 5)

    async def test_a_message_that_cannot_be_read_does_no_harm(
        self, replies: Replies, writer: Writer, async_redis: redis.asyncio.Redis
    ) -> None:
        job = await writer.begin(replies)
        stream = asyncio.create_task(collect(replies, job))
        await wait_until_async(lambda: replies.following)
        await async_redis.publish(replies.channel, b"[{}]")
        writer.write(tokens(job.id, 0), finished(job.id, 1))
        assert indices(await asyncio.wait_for(stream, 5)) == [0, 1]

    async def test_a_client_that_does_not_read_costs_a_bounded_buffer(
        self, replies: Replies, writer: Writer
    ) -> None:
        job = await writer.begin(replies)
        async with aclosing(replies.follow(QUEUE, job.id, tick_s=60)) as stream:
            writer.write(tokens(job.id, 0))
            assert await anext(stream) == tokens(job.id, 0)
            (one,) = replies._followers
            most = 0
            for index in range(1, 3_001, 50):
                writer.write(*(tokens(job.id, index + offset) for offset in range(50)))
                await asyncio.sleep(0)
                most = max(most, len(one._buffer))
            writer.write(finished(job.id, 3_001))
            await wait_until_async(lambda: one.stale)
            assert most <= follower.BUFFER_EVENTS
            assert len(one._buffer) == 0
            rest = [event async for event in stream]
        assert indices(rest) == list(range(1, 3_002))


class TestReconnect:
    async def test_two_hundred_streams_survive_a_killed_subscription(
        self, replies: Replies, writer: Writer, settings: Settings
    ) -> None:
        streams, events = 200, 40
        jobs = [await writer.begin(replies) for _ in range(streams)]
        tasks = [asyncio.create_task(collect(replies, job)) for job in jobs]
        await wait_until_async(lambda: replies.following == streams)

        def write_all() -> None:
            with connect(settings) as client:
                queue = WorkerQueue(client, settings, "writer")
                for index in range(events + 1):
                    if index in (10, 25):
                        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    done = index == events
                    make = finished if done else tokens
                    rows = [Row(job.id, 1, make(job.id, index)) for job in jobs]
                    assert queue.append(QUEUE, rows) == []

        await asyncio.to_thread(write_all)
        for stream in await asyncio.wait_for(asyncio.gather(*tasks), 20):
            assert indices(stream) == list(range(events + 1))
        await wait_until_async(lambda: replies.connected)

    async def test_redis_gone_for_seconds_ends_no_stream(
        self, tmp_path: Path, redis_settings: Settings
    ) -> None:
        server = RedisServer(tmp_path, append_only=True)
        server.start()
        settings = redis_settings.model_copy(
            update={"redis_url": server.url, "lease_ms": 60_000, "redis_patience_s": 20.0}
        )
        try:
            async with connect_async(settings) as client:
                replies = Replies(client, settings)
                await replies.start()
                with connect(settings) as sync_client:
                    writer = Writer(sync_client, JobQueue(client, settings), settings)
                    job = await writer.begin(replies)
                    stream = asyncio.create_task(collect(replies, job))
                    await wait_until_async(lambda: replies.following)
                    writer.write(tokens(job.id, 0))
                    server.kill()
                    await wait_until_async(lambda: not replies.connected)
                    # These calls are under way while there is no Redis.
                    writing = asyncio.create_task(
                        asyncio.to_thread(writer.write, tokens(job.id, 1), finished(job.id, 2))
                    )
                    late = make_job(reply=replies.channel)
                    submitting = asyncio.create_task(writer.jobs.submit(late))
                    await asyncio.sleep(1.0)
                    await asyncio.to_thread(server.start)
                    await asyncio.wait_for(writing, 10)
                    assert await asyncio.wait_for(submitting, 10)
                    assert indices(await asyncio.wait_for(stream, 10)) == [0, 1, 2]
                await replies.stop()
        finally:
            server.kill()

    async def test_a_subscription_starts_without_redis(
        self, tmp_path: Path, redis_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("penstock.transport.replies.subscriber.FIRST_SUBSCRIPTION_S", 0.1)
        server = RedisServer(tmp_path)
        settings = redis_settings.model_copy(update={"redis_url": server.url})
        async with connect_async(settings) as client:
            replies = Replies(client, settings)
            await replies.start()
            assert not replies.connected
            try:
                await asyncio.to_thread(server.start)
                await wait_until_async(lambda: replies.connected)
            finally:
                await replies.stop()
                server.kill()

    async def test_a_connection_that_is_silently_dead_is_replaced(
        self, replies: Replies, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("penstock.transport.replies.subscriber.SILENCE_S", 0.1)
        monkeypatch.setattr("penstock.transport.replies.subscriber.DEAD_S", 0.3)
        ids = {one["id"] for one in writer.client.client_list(_type="pubsub")}
        writer.client.client_pause(2_500, all=True)  # the socket stays open, nothing answers

        async def replaced() -> bool:
            with contextlib.suppress(Exception):
                found = await asyncio.to_thread(writer.client.client_list, _type="pubsub")
                return bool({one["id"] for one in found} - ids) and replies.connected
            return False

        await wait_until_async(replaced, 15)


class TestCalls:
    def call(self, *ids: int) -> TokenizerCall:
        return TokenizerCall(uuid.uuid4().hex, QUEUE, "", Detokenize(ids))

    @pytest.fixture
    def answering(self, settings: Settings) -> Any:
        """A worker's thread that answers with the ids it was given, spelt out."""
        stop = threading.Event()

        def serve() -> None:
            with connect(settings) as client:
                while not stop.is_set():
                    call = tokenizer_calls.take(client, ["other-cpu", QUEUE], 0.1)
                    if call is None:
                        continue
                    assert isinstance(call.call, Detokenize)
                    if call.call.token_ids:
                        reply = TokenizerReply(call.id, text=str(call.call.token_ids))
                    else:
                        reply = TokenizerReply(
                            call.id, error_code="invalid_parameter", error_message="no ids"
                        )
                    tokenizer_calls.answer(client, call.reply, reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        stop.set()
        thread.join()

    async def test_calls_are_answered(self, replies: Replies, answering: None) -> None:
        calls = [replies.call(self.call(number), 5) for number in range(20)]
        answers = await asyncio.gather(*calls)
        assert [one.text for one in answers] == [f"({number},)" for number in range(20)]

    async def test_an_error_is_raised_as_itself(self, replies: Replies, answering: None) -> None:
        with pytest.raises(InvalidParameter, match="no ids"):
            await replies.call(self.call(), 5)

    async def test_no_worker_answers(self, replies: Replies) -> None:
        with pytest.raises(NoWorker):
            await replies.call(self.call(1), 0.2)
        assert not replies._calls

    async def test_a_call_that_its_worker_lost_is_asked_again(
        self,
        replies: Replies,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> None:
        monkeypatch.setattr("penstock.transport.replies.tokenizer_calls.CALL_AGAIN_S", 0.2)
        asking = asyncio.create_task(replies.call(self.call(7), 5))
        assert await asyncio.to_thread(tokenizer_calls.take, redis_client, [QUEUE], 2.0)
        request.getfixturevalue("answering")
        assert (await asking).text == "(7,)"

    async def test_too_many_calls(
        self,
        async_redis: redis.asyncio.Redis,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tokenizer_calls, "MOST_CALLS", 3)
        for number in range(3):
            await tokenizer_calls.push(async_redis, self.call(number), 5)
        with pytest.raises(QueueFull):
            await tokenizer_calls.push(async_redis, self.call(3), 5)
        taken = [tokenizer_calls.take(redis_client, [QUEUE], 0.1) for _ in range(4)]
        assert [one and one.call for one in taken] == [*(Detokenize((n,)) for n in range(3)), None]


def test_the_index_after_an_event() -> None:
    assert follower.index_after(Tokens("j", 4, (1, 2), "")) == 6
    end = finished("j", 6)
    assert isinstance(end, Finished)
    assert follower.index_after(end) == 7
