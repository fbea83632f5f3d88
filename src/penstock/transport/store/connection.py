"""Clients of Redis, and patience with it."""

from __future__ import annotations

import asyncio
import logging
import re
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
    InvalidResponse,
    NoPermissionError,
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
from penstock.transport.store.wrong_types import AsyncNamingRedis, NamingRedis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from penstock.settings import Settings

T = TypeVar("T")

_log = logging.getLogger(__name__)

SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
HEALTH_CHECK_S: Final = 10
ASYNC_CONNECTIONS: Final = 64
"""Most connections of one API process; further calls wait for one of them."""

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.3

_PASSING: Final = (
    "BUSY", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOMASTERLINK", "NOPERM", "NOREPLICAS",
    "READONLY",
)  # fmt: skip
"""Error replies of a server that is busy, starting, demoted, short of disk or replicas, or has
changed our permissions: for a moment, as far as we know."""
_WITHIN = re.compile(rf"-({'|'.join((*_PASSING, 'OOM'))}) ")
"""The same in what a script reports before Redis 7."""
_OUT_OF_MEMORY: Final = "command not allowed when used memory"
TOLD_EVERY_S: Final = 10.0
"""A refusal that is met again and again is a line in the log so often."""


def _options(settings: Settings) -> dict[str, Any]:
    # RESP2 and no `CLIENT SETINFO` spare each new connection a handshake; where Redis is slow,
    # redis-py pings in the midst of it, and takes the other's answer (an error before Redis 7.2)
    # for the ping's. Retrying is `patiently`'s business alone.
    options: dict[str, Any] = {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": HEALTH_CHECK_S,
    }
    if not sentinel.is_socket(settings):
        options |= {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_keepalive": True}
    return options


def connect(settings: Settings) -> redis.Redis:
    """Return a synchronous client; every thread may use it."""
    options = {**_options(settings), "retry": Retry(NoBackoff(), 0)}
    if settings.redis_sentinels:
        return NamingRedis.from_pool(sentinel.master_pool(settings, **options))
    return cast("Any", NamingRedis).from_url(str(settings.redis_url), **options)


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """Return an asynchronous client of the running event loop, with a bounded pool."""
    options = {
        **_options(settings),
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
    return AsyncNamingRedis.from_pool(pool)


def is_passing(error: Exception) -> bool:
    """Return whether the same call may succeed when Redis is back."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    # A server that starts, or fails over; a reply that no Redis gives.
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError | InvalidResponse):
        return True
    if isinstance(error, ReadOnlyError | NoPermissionError | TryAgainError | ClusterDownError):
        return True
    if isinstance(error, ResponseError):
        return _code(error) in _PASSING
    # uvloop's word for a connection that was closed under a command
    return isinstance(error, RuntimeError) and "closed" in str(error)


def _code(error: Exception) -> str:
    """Return an error reply's first word, such as "MISCONF"; "" for other errors."""
    if not isinstance(error, ResponseError):
        return ""
    text = str(error)
    # A pipeline's error has the client's words before the server's.
    _, of_pipeline, rest = text.partition(" of pipeline caused error: ")
    words = rest.lstrip("('\"") if of_pipeline else text
    within = _WITHIN.search(words)
    if within:
        return within[1]
    return (getattr(error, "status_code", None) or words.partition(" ")[0]).rstrip(":")


class _Told:
    """Which refusals were written to the log when. Any thread may use it."""

    def __init__(self) -> None:
        self._at_s: dict[str, float] = {}

    def is_due(self, text: str) -> bool:
        """Return whether a line about this is due, and note that it is written."""
        now_s = time.monotonic()
        if now_s - self._at_s.get(text, float("-inf")) < TOLD_EVERY_S:
            return False
        if len(self._at_s) > 100:  # noqa: PLR2004 - no more than a hundred kinds in ten seconds
            self._at_s.clear()
        self._at_s[text] = now_s
        return True


_told = _Told()


def _give_up(error: Exception) -> StoreUnavailable:
    """Return what an error means to a client; the log has the rest."""
    if _OUT_OF_MEMORY in str(error):
        return StoreUnavailable("Redis is out of memory")
    refused = isinstance(error, RedisError) and not is_passing(error)
    if refused and not isinstance(error, AuthenticationError | AuthorizationError):
        if _told.is_due(str(error)):
            _log.error("Redis refuses a command: %s", error)
        refusal = StoreUnavailable(
            f"Redis refuses a command ({_code(error) or type(error).__name__})"
        )
        refusal.is_refused = True
        return refusal
    return StoreUnavailable(f"Redis does not answer: {error}")


def as_unavailable(error: Exception) -> StoreUnavailable | None:
    """Return what an error means that came from a call to Redis without patience; None for others.

    Of the system's own errors only those of connections are taken for Redis's.
    """
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, RedisError):
        return _give_up(error)
    if isinstance(error, ConnectionError | TimeoutError | RuntimeError) and is_passing(error):
        return _give_up(error)
    return None


def _final(error: Exception) -> Exception:
    """Return what to raise for an error that waiting does not mend."""
    return _give_up(error) if isinstance(error, RedisError) else error


def patiently(call: Callable[[], T], patience_s: float) -> T:
    """Run `call` until it succeeds, for `patience_s` at most; it must bear repetition.

    :raises StoreUnavailable: Redis stayed away, or has refused the call: it is out of memory, a key
        has another type, our password is wrong.
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
