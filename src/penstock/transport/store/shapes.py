"""What each command and each script of ours is answered with.

A reply of another shape is no answer: a proxy, a server that only looks like Redis, or a connection
whose replies have moved by one. It is found here, before redis-py or a caller reads it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from redis.exceptions import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Check: TypeAlias = "Callable[[Any], bool]"

SHOWN_CHARACTERS: Final = 200
"""Characters of a key or a reply in an error's message."""


class WrongShapeError(InvalidResponse):
    """A reply has another shape than its command's. The message names the command and its key."""


# -- what a reply may be


def integer(reply: Any) -> bool:
    """Accept a whole number."""
    return type(reply) is int


def string(reply: Any) -> bool:
    """Accept any bytes."""
    return isinstance(reply, bytes)


def number(reply: Any) -> bool:
    """Accept bytes that spell a number, as Redis writes scores and fields."""
    try:
        float(reply)
    except (TypeError, ValueError):
        return False
    return isinstance(reply, bytes)


def digits(reply: Any) -> bool:
    """Accept bytes that spell a whole number of at least 0."""
    return isinstance(reply, bytes) and reply.isdigit()


def nothing(reply: Any) -> bool:
    """Accept nil."""
    return reply is None


def one_of(*values: bytes | int) -> Check:
    """Accept these values."""
    return lambda reply: type(reply) in {bytes, int} and reply in values


def optional(check: Check) -> Check:
    """Accept nil, too."""
    return lambda reply: reply is None or check(reply)


def either(*checks: Check) -> Check:
    """Accept what one of the checks accepts."""
    return lambda reply: any(check(reply) for check in checks)


def array(check: Check) -> Check:
    """Accept an array of any length, each element of one shape."""
    return groups(check)


def row(*checks: Check) -> Check:
    """Accept an array of exactly these elements."""
    return lambda reply: (
        isinstance(reply, list)
        and len(cast("list[Any]", reply)) == len(checks)
        and all(
            check(element) for check, element in zip(checks, cast("list[Any]", reply), strict=True)
        )
    )


def led(first: Check, rest: Check) -> Check:
    """Accept an array of one element and any number of others."""
    return lambda reply: (
        isinstance(reply, list)
        and bool(cast("list[Any]", reply))
        and first(reply[0])
        and all(map(rest, cast("list[Any]", reply)[1:]))
    )


def groups(*checks: Check) -> Check:
    """Accept a flat array of groups: their elements come one after the other."""
    size = len(checks)

    def check(reply: Any) -> bool:
        if not isinstance(reply, list) or len(cast("list[Any]", reply)) % size:
            return False
        elements = cast("list[Any]", reply)
        return all(all(map(kind, elements[number::size])) for number, kind in enumerate(checks))

    return check


# -- what the commands expect

_OK: Final = one_of(b"OK")
_BIT: Final = one_of(0, 1)
_ENTRY: Final = row(string, array(string))

_PLAIN: Final[Mapping[str, Check]] = {
    **dict.fromkeys(("DEL", "EXISTS", "HDEL", "HLEN", "HSET", "HINCRBY", "INCRBY"), integer),
    **dict.fromkeys(("LPUSH", "RPUSH", "LLEN", "PUBLISH", "SADD", "SREM", "SCARD"), integer),
    **dict.fromkeys(("ZADD", "ZREM", "ZCARD", "ZCOUNT", "ZREMRANGEBYSCORE"), integer),
    **dict.fromkeys(("EXPIRE", "PEXPIRE", "PEXPIREAT", "PERSIST"), _BIT),
    **dict.fromkeys(("LTRIM", "MULTI", "WATCH", "UNWATCH", "DISCARD", "SELECT"), _OK),
    **dict.fromkeys(("GET", "GETEX", "HGET", "RPOP", "LPOP", "LINDEX"), optional(string)),
    **dict.fromkeys(("SMEMBERS", "LRANGE"), array(string)),
    **dict.fromkeys(("TYPE", "INFO", "SCRIPT LOAD"), string),
    "BRPOP": optional(row(string, string)),
    "HGETALL": groups(string, string),
    "PING": one_of(b"PONG"),
    "QUEUED": one_of(b"QUEUED"),
    "SCAN": row(digits, array(string)),
    "TIME": row(digits, digits),
    "XADD": string,
    "XRANGE": array(_ENTRY),
    "XREVRANGE": array(_ENTRY),
}


def _of_set(command: Sequence[Any]) -> Check:
    return optional(_OK) if {"NX", "XX"} & set(map(str, command[3:])) else _OK


def _of_zrange(command: Sequence[Any]) -> Check:
    return groups(string, number) if "WITHSCORES" in command[4:] else array(string)


def _of_hmget(command: Sequence[Any]) -> Check:
    return row(*[optional(string)] * (len(command) - 2))


def _of_mget(command: Sequence[Any]) -> Check:
    return row(*[optional(string)] * (len(command) - 1))


def _of_script(command: Sequence[Any]) -> Check | None:
    return _scripts.get(str(command[1]))


def _of_source(command: Sequence[Any]) -> Check | None:
    return _scripts.get(digest_of(str(command[1])))


_BY_ARGUMENTS: Final[Mapping[str, Callable[[Sequence[Any]], Check | None]]] = {
    "EVAL": _of_source,
    "EVALSHA": _of_script,
    "HMGET": _of_hmget,
    "MGET": _of_mget,
    "SET": _of_set,
    "ZRANGE": _of_zrange,
}

_scripts: Final[dict[str, Check]] = {}


def digest_of(source: str) -> str:
    """Return the name by which Redis knows a script."""
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def declare(source: str, check: Check) -> str:
    """Note the shape of a script's reply; return the script."""
    _scripts[digest_of(source)] = check
    return source


def expected(command: Sequence[Any]) -> Check | None:
    """Return the shape of a command's reply; None for one that is not ours.

    A command without its arguments is known only if its answer does not depend on them.
    """
    name = str(command[0])
    if len(command) > 1 and name in _BY_ARGUMENTS:
        return _BY_ARGUMENTS[name](command)
    return _PLAIN.get(name)


def check(command: Sequence[Any], reply: Any) -> None:
    """Check a reply; an error reply in a transaction's answer is one.

    :raises WrongShapeError: it is no answer to this command.
    """
    shape = expected(command)
    if shape is not None and not isinstance(reply, Exception) and not shape(reply):
        raise wrong(command, reply)


def check_transaction(commands: Sequence[Sequence[Any]], reply: Any, *, watching: bool) -> None:
    """Check the answer to EXEC: one reply a command, or nil if a watched key has changed.

    :raises WrongShapeError: it is no answer to these commands.
    """
    if reply is None and watching:
        return
    if not isinstance(reply, list) or len(cast("list[Any]", reply)) != len(commands):
        raise wrong(("EXEC", commands[0][1] if commands and len(commands[0]) > 1 else ""), reply)
    for command, answer in zip(commands, cast("list[Any]", reply), strict=True):
        check(command, answer)


def wrong(command: Sequence[Any], reply: Any) -> WrongShapeError:
    """Return the error of a reply."""
    kind = "nil" if reply is None else type(reply).__name__
    return WrongShapeError(f"{_named(command)} was answered with something else ({kind})")


def _named(command: Sequence[Any]) -> str:
    """Return a command's name and its keys: never a value, which may be a client's text."""
    name, rest = str(command[0]), command[1:]
    if name in {"EVAL", "EVALSHA"}:
        count = int(rest[1]) if len(rest) > 1 else 0
        keys = rest[2 : 2 + count]
    else:
        keys = rest[:1]
    words = (key.decode(errors="replace") if isinstance(key, bytes) else str(key) for key in keys)
    return " ".join((name, *words))[:SHOWN_CHARACTERS]
