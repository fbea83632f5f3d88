"""Finds the key whose type is not ours: Redis's WRONGTYPE error does not name it.

Another user of the Redis server may have put a string where a sorted set belongs. A command's own
key is its first argument; a script touches many keys, which are checked only after it has failed.
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
"""Yields commands, is sent their answers (errors among them), returns keys."""

MARK: Final = "WRONGTYPE"
LOOKED_AT: Final = 200
"""Members of each set of jobs or tenants whose own keys are checked."""
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
"""Keys of a queue, without the prefix, that every job passes through."""
_ASIDE: Final[Mapping[str, str]] = {
    "unheard": "zset",
    "utility": "list",
    "loaders": "zset",
    "loading": "string",
    "load_tries": "string",
    "answer_scopes": "zset",
    "answer_bytes": "hash",
}


class WrongTypeError(ResponseError):
    """One of our keys has another type. The message names the key."""


def is_wrong_type(error: object) -> bool:
    """Return whether an error reply is a WRONGTYPE error that does not name its key yet."""
    if not isinstance(error, ResponseError) or isinstance(error, WrongTypeError):
        return False
    return MARK in str(error)


def expected(queue: str, job_ids: Iterable[str] = (), *, all_keys: bool = False) -> dict[str, str]:
    """Return the keys that jobs of a queue need, with their types."""
    prefix = keys.queue_prefix(queue)
    names = {**CLAIMING, **_ASIDE} if all_keys else CLAIMING
    types = {f"{prefix}{name}": kind for name, kind in names.items()}
    types[queue] = "list"
    for job_id in job_ids:
        types[keys.job(queue, job_id)] = "hash"
        types[keys.journal(queue, job_id)] = "stream"
    return types


def wrong(types: Mapping[str, str], answers: Sequence[Any]) -> list[str]:
    """Return the keys that exist with another type than expected."""
    return [
        key
        for (key, kind), answer in zip(types.items(), answers, strict=False)
        if isinstance(answer, bytes) and answer.decode() not in {kind, "none"}
    ]


def _members(answer: Any) -> list[str]:
    """Return a set's members; none if `answer` is an error."""
    members = cast("list[bytes]", answer) if isinstance(answer, list) else []
    return [member.decode() for member in members]


def _of_script(queue: str, arguments: Sequence[Any]) -> Search:
    """Search the keys that a queue's script may have touched."""
    prefix = keys.queue_prefix(queue)
    types = expected(queue, all_keys=True)
    named = [argument for argument in arguments if isinstance(argument, str) and argument]
    for name in named[:LOOKED_AT]:
        types |= expected(queue, [name]) | {f"{prefix}claim:{name}": "list"}
    bad_keys = wrong(types, (yield [("TYPE", key) for key in types]))
    if bad_keys:
        return bad_keys
    answers = yield [("ZRANGE", f"{prefix}{name}", 0, LOOKED_AT - 1) for name in _JOBS]
    ids = {member for answer in answers for member in _members(answer)}
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
        names = [str(name) for name in command[3 : 3 + count]]
        if count == 2 and names[0] == keys.queue_prefix(names[1]):  # noqa: PLR2004 - prefix, queue
            return (yield from _of_script(names[1], command[5:]))
        return names
    if str(command[0]).upper() == "BRPOP":
        lists = {str(key): "list" for key in command[1:-1]}
        return wrong(lists, (yield [("TYPE", key) for key in lists]))
    return [str(command[1])] if len(command) > 1 else []


def error_of(bad_keys: Sequence[str]) -> WrongTypeError:
    """Return an error that names the keys of another type."""
    return WrongTypeError(
        f"{MARK} key {', '.join(bad_keys) or 'unknown'} has another type than ours"
    )


def _named(error: Exception, bad_keys: Sequence[str]) -> WrongTypeError:
    named_error = error_of(bad_keys)
    named_error.__cause__ = error
    return named_error


def named(redis: redis.Redis, error: Exception, command: Sequence[Any]) -> WrongTypeError:
    """Return an error that names the key on which a command has failed."""
    search = _search(command)
    try:
        commands = next(search)
        while True:
            pipeline = cast("Any", redis).pipeline(transaction=False)
            for command_ in commands:
                pipeline.execute_command(*command_)
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
            for command_ in commands:
                pipeline.execute_command(*command_)
            commands = search.send(await pipeline.execute(raise_on_error=False))
    except StopIteration as end:
        return _named(error, end.value)
    except (RedisError, OSError, RuntimeError):
        return _named(error, ())


class NamingRedis(redis.Redis):
    """A client whose errors name the key that has another type."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongTypeError: one of its keys has another type.
        """
        try:
            return cast("Any", super()).execute_command(*args, **options)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise named(self, error, args) from error


class AsyncNamingRedis(redis.asyncio.Redis):
    """The same client without blocking the event loop."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command.

        :raises WrongTypeError: one of its keys has another type.
        """
        try:
            return await cast("Any", super()).execute_command(*args, **options)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            raise await named_async(self, error, args) from error
