from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis.asyncio
import redis.exceptions
from pydantic import RedisDsn

from penstock.errors import StoreUnavailable
from penstock.transport.store.connection import (
    ASYNC_CONNECTIONS,
    connect,
    connect_async,
    patiently,
    patiently_async,
)
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.settings import Settings


def test_one_client_serves_many_threads(redis_client: redis.Redis) -> None:
    def count() -> None:
        for _ in range(100):
            redis_client.incr("count")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis_client.getdel("count") == b"800"


async def test_the_asynchronous_pool_is_bounded(
    async_redis: redis.asyncio.Redis, redis_client: redis.Redis
) -> None:
    others = {client["id"] for client in redis_client.client_list()}  # of earlier tests, too
    await asyncio.gather(*(async_redis.ping() for _ in range(5 * ASYNC_CONNECTIONS)))
    opened = [client for client in redis_client.client_list() if client["id"] not in others]
    assert 1 < len(opened) <= ASYNC_CONNECTIONS


async def test_calls_outlive_a_restart(tmp_path: Path, redis_settings: Settings) -> None:
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    settings = redis_settings.model_copy(update={"redis_url": RedisDsn(server.url)})
    try:
        with connect(settings) as client:
            async with connect_async(settings) as async_client:
                client.set("a", "1", ex=60)
                await async_client.ping()
                server.kill()
                both = asyncio.gather(
                    asyncio.to_thread(patiently, lambda: client.get("a"), 10.0),
                    patiently_async(lambda: async_client.get("a"), 10.0),
                )
                await asyncio.sleep(0.3)
                assert not both.done()
                await asyncio.to_thread(server.start)
                assert await both == [b"1", b"1"]
    finally:
        server.kill()


async def test_patience_ends(tmp_path: Path, redis_settings: Settings) -> None:
    url = RedisDsn(RedisServer(tmp_path).url)  # nobody listens there
    settings = redis_settings.model_copy(update={"redis_url": url})
    started_s = time.monotonic()
    with connect(settings) as client, pytest.raises(StoreUnavailable):
        patiently(client.ping, 0.3)
    async with connect_async(settings) as async_client:
        with pytest.raises(StoreUnavailable):
            await patiently_async(async_client.ping, 0.3)
    assert 0.6 <= time.monotonic() - started_s < 5


def test_a_mistake_is_not_repeated(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        redis_client.execute_command("NONSENSE")

    with pytest.raises(StoreUnavailable, match="refuses"):
        patiently(call, 5.0)
    assert calls == 1
    assert "NONSENSE" in caplog.text


def test_a_wrong_password_is_reported_at_once(tmp_path: Path, redis_settings: Settings) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", "secret")
        settings = redis_settings.model_copy(update={"redis_url": RedisDsn(server.url)})
        started_s = time.monotonic()
        with connect(settings) as client, pytest.raises(StoreUnavailable, match="uthentication"):
            patiently(client.ping, 5.0)
        assert time.monotonic() - started_s < 2
        right = RedisDsn(server.url.replace("redis://", "redis://:secret@"))
        with connect(settings.model_copy(update={"redis_url": right})) as client:
            assert patiently(client.ping, 5.0)
    finally:
        server.kill()
