"""The Lua scripts, each preceded by the shared `common.lua`."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import NoScriptError

from penstock.transport import keys
from penstock.transport.store.pipelining import SharedPipeline
from penstock.transport.store.shapes import (
    declare,
    digest_of,
    either,
    groups,
    integer,
    led,
    number,
    one_of,
    optional,
    row,
    string,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings

_JOB: Final = row(optional(string), integer, integer, one_of(0, 1, 2))
_REFUSALS: Final = groups(string, one_of(b"fenced", b"cancelled", b"expired", b"broken"))

REPLIES: Final = {
    "submit": either(row(one_of(0, 1)), row(one_of(-1), integer, number)),
    "claim": led(row(integer, integer), _JOB),
    "append": _REFUSALS,
    "renew": _REFUSALS,
    "release": one_of(0, 1),
    "reap": row(integer, integer, integer, integer, integer),
    "reconcile": row(integer, integer, integer, groups(string, integer)),
    "cancel": optional(string),
    "depth": row(integer, integer, integer, integer),
    "demand": row(integer, integer, integer, integer, integer, one_of(0, 1)),
    "redirect": one_of(0, 1),
    "unheard": groups(string, string, number),
    "leave": one_of(0, 1),
    "forget": one_of(1),
    "answers": integer,
}
"""What each script returns; see its first lines."""


def _read(name: str) -> str:
    folder = resources.files("penstock.transport.store") / "scripts"
    return (folder / f"{name}.lua").read_text(encoding="utf-8")


_PRELUDE: Final = _read("common")
_AFFINITY: Final = frozenset({"claim", "forget"})
"""Scripts that also need `affinity.lua` before them."""


def _source(name: str) -> str:
    return _PRELUDE + (_read("affinity") if name in _AFFINITY else "") + _read(name)


_SOURCES: Final = {name: declare(_source(name), reply) for name, reply in REPLIES.items()}
_DIGESTS: Final = {name: digest_of(source) for name, source in _SOURCES.items()}


def _arguments(settings: Settings, queue: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments after a script's digest: the number of keys, the keys, the arguments."""
    journal_ms = settings.journal_ttl_s * 1000
    return (2, keys.queue_prefix(queue), queue, settings.lease_ms, journal_ms, *args)


class Scripts:
    """Runs scripts on a synchronous client."""

    def __init__(self, redis: redis.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._settings = settings

    def run(self, name: str, queue: str, *args: str | bytes | int) -> Any:
        """Run a script on one queue; it is sent again if Redis has restarted and forgotten it."""
        arguments = _arguments(self._settings, queue, args)
        try:
            return self._redis.evalsha(_DIGESTS[name], *arguments)
        except NoScriptError:
            return self._redis.eval(_SOURCES[name], *arguments)


class AsyncScripts:
    """Runs scripts on an asynchronous client."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._settings = settings
        self.together = SharedPipeline(redis)
        """The connection for commands that go through `run_shared`."""

    async def run(self, name: str, queue: str, *args: str | bytes | int) -> Any:
        """Run a script on one queue; it is sent again if Redis has restarted and forgotten it."""
        arguments = _arguments(self._settings, queue, args)
        try:
            return await self._redis.evalsha(_DIGESTS[name], *arguments)
        except NoScriptError:
            return await self._redis.eval(_SOURCES[name], *arguments)

    async def run_shared(self, name: str, queue: str, *args: str | bytes | int) -> Any:
        """Do as `run`, in a round trip shared with other calls."""
        arguments = _arguments(self._settings, queue, args)
        try:
            return await self.together.run("EVALSHA", _DIGESTS[name], *arguments)
        except NoScriptError:
            return await self._redis.eval(_SOURCES[name], *arguments)
