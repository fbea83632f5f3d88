"""Redis behind Sentinels: each new connection asks them for the master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import redis
import redis.asyncio
import redis.connection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from penstock.redis_addresses import SOCKET_SCHEMES
from penstock.transport.store.cancellable import make_cancellable

if TYPE_CHECKING:
    from penstock.settings import Settings

ASK_TIMEOUT_S: Final = 1.0
"""A Sentinel that is silent for longer is skipped; there are others."""


def is_socket(settings: Settings) -> bool:
    """Return whether Redis is reached through a Unix socket."""
    return str(settings.redis_url).partition("://")[0] in SOCKET_SCHEMES


def address(settings: Settings) -> str:
    """Return the address of Redis for logs, without any password."""
    url = settings.redis_url
    if is_socket(settings):
        return f"unix://{url.path}"
    host = f"{url.host}:{url.port}"
    if settings.redis_sentinels:
        host = f"{settings.redis_master} of the Sentinels {', '.join(settings.redis_sentinels)}"
    return f"{host}{url.path or ''}"


def first_server(settings: Settings) -> tuple[str, int] | None:
    """Return host and port of Redis, or of the first Sentinel; None for a socket on this machine."""
    if settings.redis_sentinels:
        return _hosts(settings)[0]
    url = settings.redis_url
    return None if is_socket(settings) or not url.host else (url.host.strip("[]"), url.port or 0)


def _asking(settings: Settings) -> dict[str, Any]:
    """Return the options of the connections to the Sentinels themselves."""
    return {
        "protocol": 2,
        "socket_timeout": ASK_TIMEOUT_S,
        "socket_connect_timeout": ASK_TIMEOUT_S,
        "password": settings.redis_sentinel_password or None,
    }


def _hosts(settings: Settings) -> list[tuple[str, int]]:
    pairs = (text.rpartition(":") for text in settings.redis_sentinels)
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


def _of_the_url(settings: Settings) -> dict[str, Any]:
    """Return the user, password and database of `redis_url`; the Sentinels name the host."""
    parts: dict[str, Any] = cast("Any", redis.connection).parse_url(str(settings.redis_url))
    return {name: parts[name] for name in ("username", "password", "db") if name in parts}


class _SentinelPool(SentinelConnectionPool):
    """Connections that ask the Sentinels for the master."""

    def get_master_address(self) -> Any:
        """Ask the Sentinels. redis-py's own error would print every client in full."""
        try:
            return cast("Any", super()).get_master_address()
        except MasterNotFoundError as error:
            raise _unknown(self) from error

    def close(self) -> None:
        """Close the connections to the Sentinels as well."""
        cast("Any", super()).close()
        for client in cast("Any", self).sentinel_manager.sentinels:
            client.close()


class _AsyncSentinelPool(AsyncSentinelPool, redis.asyncio.BlockingConnectionPool):
    """A bounded pool of connections that ask the Sentinels for the master."""

    async def get_master_address(self) -> Any:
        """Ask the Sentinels. redis-py's own error would print every client in full."""
        try:
            return await cast("Any", super()).get_master_address()
        except MasterNotFoundError as error:
            raise _unknown(self) from error

    async def aclose(self) -> None:
        """Close the connections to the Sentinels as well."""
        await cast("Any", super()).aclose()
        for client in cast("Any", self).sentinel_manager.sentinels:
            await client.aclose()


def _unknown(pool: Any) -> MasterNotFoundError:
    return MasterNotFoundError(f"no Sentinel answers with a master {pool.service_name}")


def master_pool(settings: Settings, **options: Any) -> redis.ConnectionPool:
    """Return a pool of connections to the current master."""
    asking = {**_asking(settings), "retry": Retry(NoBackoff(), 0)}
    sentinel = cast("Any", Sentinel)(_hosts(settings), sentinel_kwargs=asking)
    pool = cast("Any", _SentinelPool)
    return pool(settings.redis_master, sentinel, **_of_the_url(settings), **options)


def async_master_pool(settings: Settings, **options: Any) -> redis.asyncio.BlockingConnectionPool:
    """Return a bounded pool of connections to the current master."""
    asking = {**_asking(settings), "retry": AsyncRetry(NoBackoff(), 0)}
    sentinel = cast("Any", AsyncSentinel)(_hosts(settings), sentinel_kwargs=asking)
    for client in sentinel.sentinels:
        make_cancellable(client.connection_pool)
    pool = cast("Any", _AsyncSentinelPool)
    return pool(settings.redis_master, sentinel, **_of_the_url(settings), **options)


def broker(settings: Settings) -> tuple[str, dict[str, Any]]:
    """Return Celery's broker URL and its transport options."""
    if is_socket(settings):
        return _socket_for_celery(settings), {}
    if not settings.redis_sentinels:
        return str(settings.redis_url), {}
    url = settings.redis_url
    user = f"{url.username or ''}:{url.password}@" if url.password else ""
    # Celery tries them in turn, and takes every option from the one that it uses.
    urls = [f"sentinel://{user}{host}{url.path or '/0'}" for host in settings.redis_sentinels]
    options = {
        "master_name": settings.redis_master,
        "sentinel_kwargs": {**_asking(settings), "retry": Retry(NoBackoff(), 0)},
    }
    return ";".join(urls), options


def _socket_for_celery(settings: Settings) -> str:
    """Return a socket's URL in kombu's form, which has the account before the path."""
    url = settings.redis_url
    parameters = dict(url.query_params())
    user, password = parameters.get("username", ""), parameters.get("password", "")
    account = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    return f"redis+socket://{account}{url.path}?virtual_host={parameters.get('db', '0')}"
