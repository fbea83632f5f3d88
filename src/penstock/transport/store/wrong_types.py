"""Which key has another type than ours: Redis's WRONGTYPE does not name it.

Whoever can write to Redis may have put a string where a sorted set belongs. A command's own key is
its first argument; a script touches many, which are looked at when it has failed, and only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import redis
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

Search: TypeAlias = "Generator[list[tuple[Any, ...]], list[Any], list[str]]"
"""Yields commands, gets their answers (errors among them), returns keys."""

MARK: Final = "WRONGTYPE"
LOOKED_AT: Final = 200
"""Members of each set of jobs or tenants whose own keys are looked at."""
_SCRIPTS: Final = ("EVALSHA", "EVAL")
_PRIORITIES: Final = range(10)
_JOBS: Final = ("arrivals", "returned", "leases", "deadlines", "unheard")
CLAIMING: Final[Mapping[str, str]] = {
    "arrivals": "zset",
    "returned": "zset",
    "leases": "zset",
    "deadlines": "zset",
    "counters": "hash",
    "workers": "zset",
    **{f"tenants:{priority}": "zset" for priority in _PRIORITIES},
    **{f"served:{priority}": "zset" for priority in _PRIORITIES},
}
"""Keys of a queue, without its prefix, which each job's way leads through."""
_ASIDE: Final[Mapping[str, str]] = {"unheard": "zset", "utility": "list"}


class WrongTypeError(ResponseError):
    """A key of ours has another type. The message names it."""


def is_wrong_type(error: object) -> bool:
    """Return whether an error reply is about a key's type and does not name the key yet."""
    if not isinstance(error, ResponseError) or isinstance(error, WrongTypeError):
        return False
    return MARK in str(error)


def expected(queue: str, job_ids: Iterable[str] = (), *, all_keys: bool = False) -> dict[str, str]:
    """Return the keys that jobs of a queue need, with their types."""
    prefix = keys.queue_prefix(queue)
    names = {**CLAIMING, **_ASIDE} if all_keys else CLAIMING
    found = {f"{prefix}{name}": kind for name, kind in names.items()}
    found[queue] = "list"
    for job_id in job_ids:
        found[keys.job(queue, job_id)] = "hash"
        found[keys.journal(queue, job_id)] = "stream"
    return found


def wrong(types: Mapping[str, str], answers: Sequence[Any]) -> list[str]:
    """Return the keys whose TYPE is neither what it should be nor none."""
    return [
        key
        for (key, kind), answer in zip(types.items(), answers, strict=False)
        if isinstance(answer, bytes) and answer.decode() not in {kind, "none"}
    ]


def _members(answer: Any) -> list[str]:
    """Return a set's members; none for an error."""
    members = cast("list[bytes]", answer) if isinstance(answer, list) else []
    return [one.decode() for one in members]


def _of_script(queue: str, arguments: Sequence[Any]) -> Search:
    """Search what a script of a queue may have touched."""
    prefix = keys.queue_prefix(queue)
    types = expected(queue, all_keys=True)
    named = [one for one in arguments if isinstance(one, str) and one]
    for one in named[:LOOKED_AT]:
        types |= expected(queue, [one]) | {f"{prefix}claim:{one}": "list"}
    found = wrong(types, (yield [("TYPE", key) for key in types]))
    if found:
        return found
    answers = yield [("ZRANGE", f"{prefix}{name}", 0, LOOKED_AT - 1) for name in _JOBS]
    ids = {one for answer in answers for one in _members(answer)}
    types = expected(queue, sorted(ids))
    for priority in _PRIORITIES:
        answers = yield [("ZRANGE", f"{prefix}tenants:{priority}", 0, LOOKED_AT - 1)]
        lines = [*_members(answers[0]), *named[:LOOKED_AT]]
        types |= {f"{prefix}waiting:{priority}:{tenant}": "zset" for tenant in lines}
    return wrong(types, (yield [("TYPE", key) for key in types]))


def _search(command: Sequence[Any]) -> Search:
    """Search the keys of a failed command."""
    if str(command[0]).upper() in _SCRIPTS:
        count = int(command[2])
        its_keys = [str(one) for one in command[3 : 3 + count]]
        if count == 2 and its_keys[0] == keys.queue_prefix(its_keys[1]):  # noqa: PLR2004 - prefix and queue
            return (yield from _of_script(its_keys[1], command[5:]))
        return its_keys
    if str(command[0]).upper() == "BRPOP":
        lists = {str(key): "list" for key in command[1:-1]}
        return wrong(lists, (yield [("TYPE", key) for key in lists]))
    return [str(command[1])] if len(command) > 1 else []


def error_of(found: Sequence[str]) -> WrongTypeError:
    """Return the error of keys that have another type."""
    return WrongTypeError(f"{MARK} key {', '.join(found) or 'unknown'} has another type than ours")


def _named(error: Exception, found: Sequence[str]) -> WrongTypeError:
    named_error = error_of(found)
    named_error.__cause__ = error
    return named_error


def named(redis: redis.Redis, error: Exception, command: Sequence[Any]) -> WrongTypeError:
    """Return an error that names the key which a command has failed on."""
    search = _search(command)
    try:
        commands = next(search)
        while True:
            pipeline = cast("Any", redis).pipeline(transaction=False)
            for one in commands:
                pipeline.execute_command(*one)
            commands = search.send(pipeline.execute(raise_on_error=False))
    except StopIteration as end:
        return _named(error, end.value)
    except (RedisError, OSError):
        return _named(error, ())


async def named_async(
    redis: redis.asyncio.Redis, error: Exception, command: Sequence[Any]
) -> WrongTypeError:
    """Do as `named` does, without blocking the event loop."""
    search = _search(command)
    try:
        commands = next(search)
        while True:
            pipeline = cast("Any", redis).pipeline(transaction=False)
            for one in commands:
                pipeline.execute_command(*one)
            commands = search.send(await pipeline.execute(raise_on_error=False))
    except StopIteration as end:
        return _named(error, end.value)
    except (RedisError, OSError, RuntimeError):
        return _named(error, ())


class NamingRedis(redis.Redis):
    """A client whose errors name the key that has another type."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongTypeError: a key of it has another type.
        """
        try:
            return cast("Any", super()).execute_command(*args, **options)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise named(self, error, args) from error


class AsyncNamingRedis(redis.asyncio.Redis):
    """The same without blocking the event loop."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongTypeError: a key of it has another type.
        """
        try:
            return await cast("Any", super()).execute_command(*args, **options)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise await named_async(self, error, args) from error
