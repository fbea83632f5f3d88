"""A named lease in Redis: at most one process holds it, for as long as it renews it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisError

from penstock.transport.store.shapes import declare, integer, one_of

if TYPE_CHECKING:
    import redis.asyncio

TAKE: Final = declare(
    """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
""",
    one_of(0, 1),
)
"""A key that would live for longer than a lease is foreign: it gets a lease's life from now on."""
RENEW: Final = declare(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""",
    one_of(0, 1),
)
RELEASE: Final = declare(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""",
    integer,
)


class Lease:
    """One name, for one holder. Owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, key: str, holder: str, life_s: float) -> None:
        self._redis = cast("Any", redis)
        self._key = key
        self._holder = holder
        self._life_ms = int(life_s * 1000)
        self._take = self._redis.register_script(TAKE)
        self._renew = self._redis.register_script(RENEW)
        self._release = self._redis.register_script(RELEASE)

    async def take(self) -> bool:
        """Take the lease if it is free; False if it is not, or Redis is away."""
        try:
            return bool(await self._take(keys=[self._key], args=[self._holder, self._life_ms]))
        except (RedisError, OSError, RuntimeError):
            return False

    async def renew(self) -> bool | None:
        """Return whether this process still holds the lease; None if Redis does not answer."""
        try:
            return bool(await self._renew(keys=[self._key], args=[self._holder, self._life_ms]))
        except (RedisError, OSError, RuntimeError):
            return None

    async def release(self) -> None:
        """Release the lease."""
        try:
            await self._release(keys=[self._key], args=[self._holder])
        except (RedisError, OSError, RuntimeError):
            return  # it expires by itself
