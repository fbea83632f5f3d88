"""Replies of other shapes are refused, by what their commands and scripts declare."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from penstock.transport.accounts import usage_log
from penstock.transport.store import named_lease, scripting, shapes
from penstock.transport.store.shapes import WrongShapeError, check, check_transaction, expected

RIGHT: list[tuple[tuple[Any, ...], Any]] = [
    (("GET", "k"), None),
    (("GET", "k"), b"x"),
    (("SET", "k", "NX"), b"OK"),
    (("SET", "k", "v", "NX"), None),
    (("SET", "k", "v", "XX", "PX", 5), None),
    (("HMGET", "k", "a", "b"), [None, b"x"]),
    (("MGET", "a", "b", "c"), [None, b"x", None]),
    (("ZRANGE", "k", 0, -1), [b"a", b"b", b"c"]),
    (("ZRANGE", "k", 0, -1, "WITHSCORES"), [b"a", b"1.5e+12", b"b", b"inf"]),
    (("XRANGE", "k", "-", "+"), [[b"1-0", [b"e", b"x"]]]),
    (("TIME",), [b"1764", b"5"]),
    (("BRPOP", "k", 1), None),
    (("BRPOP", "k", 1), [b"k", b"v"]),
    (("HGETALL", "k"), [b"a", b"1"]),
    (("EXPIRE", "k", 1), 0),
]
WRONG: list[tuple[tuple[Any, ...], Any]] = [
    (("GET", "k"), 7),
    (("GET", "k"), []),
    (("SET", "k", "NX"), None),
    (("SET", "k", "v"), b"QUEUED"),
    (("HMGET", "k", "a", "b"), [None]),
    (("HMGET", "k", "a", "b"), None),
    (("MGET", "a"), [7]),
    (("ZRANGE", "k", 0, -1, "WITHSCORES"), [b"a"]),
    (("ZRANGE", "k", 0, -1, "WITHSCORES"), [b"a", b"x"]),
    (("XRANGE", "k", "-", "+"), [[b"1-0"]]),
    (("XRANGE", "k", "-", "+"), None),
    (("TIME",), [b"x", b"5"]),
    (("TIME",), [b"1764"]),
    (("BRPOP", "k", 1), [b"k"]),
    (("HGETALL", "k"), [b"a"]),
    (("EXPIRE", "k", 1), 7),
    (("PING",), b"OK"),
]


@pytest.mark.parametrize(("command", "reply"), RIGHT)
def test_a_right_reply_passes(command: tuple[Any, ...], reply: Any) -> None:
    check(command, reply)


@pytest.mark.parametrize(("command", "reply"), WRONG)
def test_a_wrong_reply_is_refused_and_named(command: tuple[Any, ...], reply: Any) -> None:
    with pytest.raises(WrongShapeError, match=rf"^{command[0]}\b"):
        check(command, reply)


def test_every_script_declares_its_reply() -> None:
    sources = [*scripting._SOURCES.values(), named_lease.RENEW, usage_log.WRITE]
    for source in sources:
        assert expected(("EVALSHA", shapes.digest_of(source), 0)) is expected(("EVAL", source, 0))
        assert expected(("EVAL", source, 0)) is not None


SCRIPTS: dict[str, tuple[list[Any], list[Any]]] = {
    "submit": ([[1], [0], [-1, 3, b"0.5"]], [None, 1, [2], [-1, 3], [], [b"1"]]),
    "claim": (
        [[[0, -1]], [[3, 20], [b"{}", 1, 0, 2], [None, 2, 0, 0]]],
        [None, [], [0], [b"x"], [[3, -1], [b"{}", 1, 0]]],
    ),
    "forget": ([1], [0, None, [1]]),
    "append": ([[], [b"id", b"fenced"]], [None, [b"id"], [b"id", b"why"], [7, b"fenced"]]),
    "reap": ([[0, 0, 0, 0, -1]], [None, [0, 0, 0, 0], [0, 0, 0, 0, b"x"]]),
    "depth": ([[0, 0, 0, 0]], [None, [0], 5]),
    "cancel": ([None, b"requested"], [7, []]),
    "release": ([0, 1], [None, 7, b"OK"]),
    "unheard": ([[], [b"{}", b"{}", b"17.0"]], [None, [b"{}"], [b"{}", b"{}", b"x"]]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_replies_of_scripts(name: str) -> None:
    command = ("EVALSHA", scripting._DIGESTS[name], 2, "penstock:{q}:", "q", "a client's text")
    right, wrong = SCRIPTS[name]
    for reply in right:
        check(command, reply)
    for reply in wrong:
        with pytest.raises(WrongShapeError) as caught:
            check(command, reply)
        assert "penstock:{q}:" in str(caught.value)
        assert "client" not in str(caught.value)


def test_a_transactions_replies_are_those_of_its_commands() -> None:
    commands = [("INCRBY", "k", 5), ("EXPIRE", "k", 5)]
    check_transaction(commands, [5, 1], watching=False)
    check_transaction(commands, [ValueError("an error reply"), 1], watching=False)
    check_transaction(commands, None, watching=True)
    for reply in (None, 7, b"OK", [5], [5, 7], [b"5", 1]):
        with pytest.raises(WrongShapeError):
            check_transaction(commands, reply, watching=False)


def test_an_error_reply_in_a_pipeline_moves_no_other(redis_client: redis.Redis) -> None:
    redis_client.set("a string", "x", ex=60)
    pipeline = redis_client.pipeline(transaction=False)
    pipeline.zcard("a string")
    pipeline.get("a string")
    pipeline.hmget("a string", ["a"])
    pipeline.exists("a string")
    first, text, third, count = pipeline.execute(raise_on_error=False)
    assert (text, count) == (b"x", 1)
    assert all(isinstance(error, redis.ResponseError) for error in (first, third))
