"""Clients of Redis, and patience with it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from penstock.errors import StoreUnavailable
from penstock.transport.store import sentinel
from penstock.transport.store.cancellable import make_cancellable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from penstock.settings import Settings

T = TypeVar("T")

SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
HEALTH_CHECK_S: Final = 10
ASYNC_CONNECTIONS: Final = 64
"""Most connections of one API process; further calls wait for one of them."""

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.3

_PASSING: Final = ("BUSY ", "MISCONF", "NOREPLICAS")
"""Error replies of a server that is busy, or short of disk or replicas, for a moment."""
_OUT_OF_MEMORY: Final = "command not allowed when used memory"


def _options() -> dict[str, Any]:
    # RESP2 and no `CLIENT SETINFO` spare each new connection a handshake; where Redis is slow,
    # redis-py pings in the midst of it, and takes the other's answer (an error before Redis 7.2)
    # for the ping's. Retrying is `patiently`'s business alone.
    return {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
    }


def connect(settings: Settings) -> redis.Redis:
    """Return a synchronous client; every thread may use it."""
    options = {**_options(), "retry": Retry(NoBackoff(), 0)}
    if settings.redis_sentinels:
        return redis.Redis.from_pool(sentinel.master_pool(settings, **options))
    return cast("Any", redis.Redis).from_url(str(settings.redis_url), **options)


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """Return an asynchronous client of the running event loop, with a bounded pool."""
    options = {
        **_options(),
        "max_connections": ASYNC_CONNECTIONS,
        "timeout": settings.redis_patience_s,
        "retry": AsyncRetry(NoBackoff(), 0),
    }
    pool: Any
    if settings.redis_sentinels:
        pool = sentinel.async_master_pool(settings, **options)
    else:
        blocking = cast("Any", redis.asyncio.BlockingConnectionPool)
        pool = blocking.from_url(str(settings.redis_url), **options)
    make_cancellable(pool)
    return redis.asyncio.Redis.from_pool(pool)


def is_passing(error: Exception) -> bool:
    """Return whether the same call may succeed when Redis is back."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    # A server that starts, or fails over.
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
        return True
    if isinstance(error, ReadOnlyError | TryAgainError | ClusterDownError):
        return True
    if isinstance(error, ResponseError):
        return _reply(error).startswith(_PASSING)
    # uvloop's word for a connection that was closed under a command
    return isinstance(error, RuntimeError) and "closed" in str(error)


def _reply(error: ResponseError) -> str:
    """Return the server's own words; a pipeline's error has the client's before them."""
    text = str(error)
    _, of_pipeline, rest = text.partition(" of pipeline caused error: ")
    return rest.lstrip("('\"") if of_pipeline else text


def _give_up(error: Exception) -> StoreUnavailable:
    if _OUT_OF_MEMORY in str(error):
        return StoreUnavailable("Redis is out of memory")
    return StoreUnavailable(f"Redis does not answer: {error}")


def as_unavailable(error: Exception) -> StoreUnavailable | None:
    """Return what an error means that came from a call to Redis without patience; None for others.

    Of the system's own errors only those of connections are taken for Redis's.
    """
    if isinstance(error, StoreUnavailable):
        return error
    of_redis = isinstance(error, RedisError | ConnectionError | TimeoutError | RuntimeError)
    if of_redis and (is_passing(error) or _OUT_OF_MEMORY in str(error)):
        return _give_up(error)
    return None


def _final(error: Exception) -> Exception:
    """Return what to raise for an error that waiting does not mend."""
    refused = isinstance(error, AuthenticationError | AuthorizationError)
    if refused or _OUT_OF_MEMORY in str(error):
        return _give_up(error)
    return error


def patiently(call: Callable[[], T], patience_s: float) -> T:
    """Run `call` until it succeeds, for `patience_s` at most; it must bear repetition.

    :raises StoreUnavailable: Redis stayed away, refused our password or is out of memory.
    """
    end = time.monotonic() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (RedisError, OSError, RuntimeError) as error:
            if not is_passing(error):
                raise _final(error) from error
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise _give_up(error) from error
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def patiently_async(call: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Do as `patiently` does, without blocking the event loop."""
    end = time.monotonic() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except (RedisError, OSError, RuntimeError) as error:
            if not is_passing(error):
                raise _final(error) from error
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise _give_up(error) from error
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
