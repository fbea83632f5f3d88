"""Clients of Redis, and retries while it is away."""

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
from penstock.transport.store.clients import AsyncStoreClient, StoreClient
from penstock.transport.store.repeated_lines import lines
from penstock.transport.store.shapes import WrongShapeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from penstock.settings import Settings

T = TypeVar("T")

_log = logging.getLogger(__name__)

SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
HEALTH_CHECK_S: Final = 10
ASYNC_CONNECTIONS: Final = 64
"""Most connections of one API process; further calls wait for a free one."""

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.3

_PASSING: Final = (
    "BUSY", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOMASTERLINK", "NOPERM", "NOREPLICAS",
    "READONLY",
)  # fmt: skip
"""Codes of error replies that are presumed temporary: Redis is busy, starting, demoted, short of
disk or replicas, or its permissions have changed."""
_WITHIN = re.compile(rf"-({'|'.join((*_PASSING, 'OOM'))}) ")
"""The same codes in a script's error before Redis 7."""
_OUT_OF_MEMORY: Final = "command not allowed when used memory"
_DENIED: Final = "DENIED"
PROTECTED: Final = (
    "Redis is in protected mode: without a password it serves its own machine alone; set requirepass "
    "there and redis://:PASSWORD@host:6379/0 here"
)
"""Instead of the long text of Redis, which is about its own console."""


def _options(settings: Settings) -> dict[str, Any]:
    # RESP2 and no `CLIENT SETINFO` save each new connection a handshake. When Redis is slow,
    # redis-py pings in the middle of it and takes the other command's answer (an error before Redis
    # 7.2) for the ping's. Only `patiently` retries.
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
    """Return a synchronous client, usable from every thread."""
    options = {**_options(settings), "retry": Retry(NoBackoff(), 0)}
    if settings.redis_sentinels:
        return StoreClient.from_pool(sentinel.master_pool(settings, **options))
    return cast("Any", StoreClient).from_url(str(settings.redis_url), **options)


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
    return AsyncStoreClient.from_pool(pool)


def is_passing(error: Exception) -> bool:
    """Return whether the same call may succeed later."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    # A server that starts or fails over; a reply that Redis never sends.
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError | InvalidResponse):
        return True
    if isinstance(error, ReadOnlyError | NoPermissionError | TryAgainError | ClusterDownError):
        return True
    if isinstance(error, ResponseError):
        return _code(error) in _PASSING
    # uvloop's error for a connection that was closed during a command
    return isinstance(error, RuntimeError) and "closed" in str(error)


def _code(error: Exception) -> str:
    """Return an error reply's first word, such as "MISCONF"; "" for other errors."""
    if not isinstance(error, ResponseError):
        return ""
    text = str(error)
    # In a pipeline's error, the client's words come before the server's.
    _, of_pipeline, cause = text.partition(" of pipeline caused error: ")
    words = cause.lstrip("('\"") if of_pipeline else text
    within = _WITHIN.search(words)
    if within:
        return within[1]
    return (getattr(error, "status_code", None) or words.partition(" ")[0]).rstrip(":")


def words_of(error: Exception) -> str:
    """Return an error's text for a log or an operator."""
    return PROTECTED if _code(error) == _DENIED else str(error)


def _give_up(error: Exception) -> StoreUnavailable:
    """Return the error for a client; details go to the log."""
    if _OUT_OF_MEMORY in str(error):
        return StoreUnavailable("Redis is out of memory")
    if isinstance(error, WrongShapeError):  # in the log already, with the command and its key
        return StoreUnavailable("Redis answers with something else")
    if _code(error) == _DENIED:
        if lines.is_due(PROTECTED):
            _log.error("%s", PROTECTED)
        refusal = StoreUnavailable(PROTECTED)
        refusal.is_refused = True
        return refusal
    refused = isinstance(error, RedisError) and not is_passing(error)
    if refused and not isinstance(error, AuthenticationError | AuthorizationError):
        if lines.is_due(str(error)):
            _log.error("Redis refuses a command: %s", error)
        refusal = StoreUnavailable(
            f"Redis refuses a command ({_code(error) or type(error).__name__})"
        )
        refusal.is_refused = True
        return refusal
    return StoreUnavailable(f"Redis does not answer: {error}")


def as_unavailable(error: Exception) -> StoreUnavailable | None:
    """Return the error for a failed call to Redis without retries; None for unrelated errors.

    Of the system's errors, only connection errors count as Redis's.
    """
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, RedisError):
        return _give_up(error)
    if isinstance(error, ConnectionError | TimeoutError | RuntimeError) and is_passing(error):
        return _give_up(error)
    return None


def _final(error: Exception) -> Exception:
    """Return what to raise for an error that waiting does not fix."""
    return _give_up(error) if isinstance(error, RedisError) else error


def patiently(call: Callable[[], T], patience_s: float) -> T:
    """Run `call` until it succeeds, for at most `patience_s`; `call` must be repeatable.

    :raises StoreUnavailable: Redis stayed away or refused the call: it is out of memory, a key
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
