from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis
    import redis.asyncio


def test_both_clients_reach_the_server(redis_client: redis.Redis) -> None:
    assert redis_client.ping()


async def test_async_client(async_redis: redis.asyncio.Redis) -> None:
    assert await async_redis.ping()
