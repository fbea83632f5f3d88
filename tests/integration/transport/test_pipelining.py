"""Commands that share a round trip: order, errors, callers that go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from penstock.transport.store.connection import connect_async
from penstock.transport.store.pipelining import SharedPipeline
from tests.fixtures.jobs import QUEUE, make_job
from tests.fixtures.queues import bells

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings
    from penstock.transport.jobs.queue import JobQueue


async def test_commands_of_one_instant_go_in_order_and_in_one_or_two_trips(
    async_redis: redis.asyncio.Redis, redis_client: redis.Redis
) -> None:
    together = SharedPipeline(async_redis)
    before = redis_client.info("stats")["total_connections_received"]
    answers = await asyncio.gather(*(together.run("RPUSH", "list", n) for n in range(200)))
    assert answers == list(range(1, 201))
    assert [int(one) for one in redis_client.lrange("list", 0, -1)] == list(range(200))
    assert redis_client.info("stats")["total_connections_received"] - before <= 1
    redis_client.delete("list")


async def test_an_error_is_its_own_callers(async_redis: redis.asyncio.Redis) -> None:
    together = SharedPipeline(async_redis)
    good, bad, other = await asyncio.gather(
        together.run("PING"), together.run("NONSENSE"), together.run("ECHO", "x"),
        return_exceptions=True,
    )  # fmt: skip
    assert (good, other) == (True, b"x")  # as the client reads a PONG
    assert isinstance(bad, ResponseError)


async def test_a_caller_that_goes_takes_no_other_along(async_redis: redis.asyncio.Redis) -> None:
    together = SharedPipeline(async_redis)
    first = asyncio.create_task(together.run("PING"))
    second = asyncio.create_task(together.run("ECHO", "x"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"x"
    assert await together.run("ECHO", "y") == b"y"
    assert first.cancelled()


async def test_a_redis_that_is_away_is_reported_to_every_caller(redis_settings: Settings) -> None:
    away = redis_settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    async with connect_async(away) as client:
        together = SharedPipeline(client)
        told = await asyncio.gather(
            *(together.run("PING") for _ in range(3)), return_exceptions=True
        )
    assert len(told) == 3
    assert all(isinstance(one, RedisConnectionError) for one in told)


async def test_jobs_submitted_at_once_are_all_there_though_redis_has_no_scripts(
    jobs: JobQueue, redis_client: redis.Redis
) -> None:
    redis_client.script_flush()
    made = [make_job() for _ in range(50)]
    assert all(await asyncio.gather(*map(jobs.submit, made)))
    assert not any(await asyncio.gather(*map(jobs.submit, made)))
    assert bells(redis_client) == 50
    assert [await jobs.locate(job.id) for job in made] == [QUEUE] * 50
