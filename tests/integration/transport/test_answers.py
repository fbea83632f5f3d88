"""Answers in Redis, as workers draft from them: read by parts, bounded, and gone after a day."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest

from penstock.transport import keys
from penstock.transport.jobs import answers
from penstock.transport.store.scripting import Scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from penstock.settings import Settings

QUEUE = "model-cpu"
BOUND = 1 << 26


@pytest.fixture
def scripts(redis_client: redis.Redis, redis_settings: Settings) -> Scripts:
    return Scripts(redis_client, redis_settings)


def add(
    scripts: Scripts, scope: str, texts: Sequence[Sequence[int]], most_bytes: int = BOUND
) -> None:
    answers.add(scripts, QUEUE, scope, texts, most_bytes=most_bytes)


def drop(client: redis.Redis) -> None:
    for key in client.scan_iter(f"{keys.queue_prefix(QUEUE)}*"):
        assert client.ttl(key) > 0
        client.delete(key)


def test_each_reader_gets_what_it_has_not_read(redis_client, scripts):
    add(scripts, "a", [(1, 2, 3), (4, 5)])
    texts, last = answers.read(redis_client, QUEUE, "a", "")
    assert texts == [(1, 2, 3), (4, 5)]
    assert answers.read(redis_client, QUEUE, "a", last) == ([], last)
    add(scripts, "a", [(6,)])
    assert answers.read(redis_client, QUEUE, "a", last)[0] == [(6,)]
    assert answers.read(redis_client, QUEUE, "b", "") == ([], "")
    assert 0 < redis_client.ttl(keys.answers(QUEUE, "a")) <= answers.LIFE_S
    drop(redis_client)


def test_the_oldest_make_room(redis_client, scripts):
    for first in range(0, 1000, 50):
        add(scripts, "a", [(token,) for token in range(first, first + 50)])
    assert redis_client.xlen(keys.answers(QUEUE, "a")) < answers.MOST_ANSWERS + 150
    read, after = [], ""
    while texts := answers.read(redis_client, QUEUE, "a", after)[0]:
        read += texts
        after = answers.read(redis_client, QUEUE, "a", after)[1]
        assert len(texts) <= answers.PAGE
    assert read[-1] == (999,)
    drop(redis_client)


def test_entries_that_are_no_answers_are_left_out(redis_client, scripts):
    key = keys.answers(QUEUE, "a")
    longest = (7,) * (answers.MOST_BYTES // 4)
    bombs = [zlib.compress(bytes(size)) for size in (answers.MOST_BYTES + 4, 1 << 20)]
    for entry in (
        {"t": b"x"},
        {"u": b""},
        {"t": zlib.compress(b"123")},
        *({"t": b} for b in bombs),
    ):
        redis_client.xadd(key, entry)
    add(scripts, "a", [(1, 2), longest])
    assert answers.read(redis_client, QUEUE, "a", "")[0] == [(1, 2), longest]
    drop(redis_client)


def test_all_tenants_together_are_bounded(redis_client, scripts):
    """Each scope keeps its last answers; the ones that were added to longest ago make room."""
    bound = 40_000
    text = list(range(200))
    for tenant in range(100):
        add(scripts, f"tenant:{tenant}", [text, text[::-1]], bound)
    names = list(redis_client.scan_iter(f"{keys.queue_prefix(QUEUE)}answers:*"))
    held = sum(redis_client.memory_usage(name, samples=0) for name in names)
    assert held <= bound
    assert len(names) < 100
    assert int(redis_client.hget(f"{keys.queue_prefix(QUEUE)}answer_bytes", "")) == held
    assert answers.read(redis_client, QUEUE, "tenant:99", "")[0] == [tuple(text), tuple(text[::-1])]
    assert answers.read(redis_client, QUEUE, "tenant:0", "")[0] == []
    # One that goes on is kept, and one alone is bounded by its own count.
    add(scripts, "tenant:99", [(token,) for token in range(3000)], 4096)
    assert redis_client.zcard(f"{keys.queue_prefix(QUEUE)}answer_scopes") == 1
    assert redis_client.xlen(keys.answers(QUEUE, "tenant:99")) < answers.MOST_ANSWERS + 150
    drop(redis_client)
