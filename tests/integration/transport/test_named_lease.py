"""A lease of a name, and what others leave at its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.transport.store.named_lease import Lease
from tests.fixtures.jobs import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    import redis.asyncio

KEY = "penstock:lease:test"
LIFE_S = 0.3

FOREIGN: dict[str, Callable[[redis.Redis], object]] = {
    "a string without an end": lambda client: client.set(KEY, "foreign"),
    "a string for a day": lambda client: client.set(KEY, "foreign", ex=86_400),
    "a list": lambda client: client.rpush(KEY, "foreign"),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_not_ours_gets_a_leases_life(
    redis_client: redis.Redis, async_redis: redis.asyncio.Redis, kind: str
) -> None:
    FOREIGN[kind](redis_client)
    lease = Lease(async_redis, KEY, "one", LIFE_S)
    assert not await lease.take()
    assert not await lease.renew()
    await wait_until_async(lease.take, 10 * LIFE_S)
    assert await lease.renew()
    await lease.release()


async def test_a_lease_is_not_shortened_by_who_wants_it(
    redis_client: redis.Redis, async_redis: redis.asyncio.Redis
) -> None:
    first = Lease(async_redis, KEY, "one", 10.0)
    assert await first.take()
    redis_client.pexpire(KEY, 8_000)
    assert not await Lease(async_redis, KEY, "two", 10.0).take()
    assert redis_client.pttl(KEY) <= 8_000
    assert await first.renew()
    await first.release()
    assert not redis_client.exists(KEY)
