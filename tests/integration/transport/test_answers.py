"""Answers in Redis, as workers draft from them: read by parts, bounded, and gone after a day."""

from __future__ import annotations

import zlib

from penstock.transport import keys
from penstock.transport.jobs import answers

QUEUE = "model-cpu"


def test_each_reader_gets_what_it_has_not_read(redis_client):
    answers.add(redis_client, QUEUE, "a", [(1, 2, 3), (4, 5)])
    texts, last = answers.read(redis_client, QUEUE, "a", "")
    assert texts == [(1, 2, 3), (4, 5)]
    assert answers.read(redis_client, QUEUE, "a", last) == ([], last)
    answers.add(redis_client, QUEUE, "a", [(6,)])
    assert answers.read(redis_client, QUEUE, "a", last)[0] == [(6,)]
    assert answers.read(redis_client, QUEUE, "b", "") == ([], "")
    assert 0 < redis_client.ttl(keys.answers(QUEUE, "a")) <= answers.LIFE_S
    redis_client.delete(keys.answers(QUEUE, "a"))


def test_the_oldest_make_room(redis_client):
    for first in range(0, 1000, 50):
        answers.add(redis_client, QUEUE, "a", [(token,) for token in range(first, first + 50)])
    assert redis_client.xlen(keys.answers(QUEUE, "a")) < answers.MOST_ANSWERS + 150
    read, after = [], ""
    while texts := answers.read(redis_client, QUEUE, "a", after)[0]:
        read += texts
        after = answers.read(redis_client, QUEUE, "a", after)[1]
        assert len(texts) <= answers.PAGE
    assert read[-1] == (999,)
    redis_client.delete(keys.answers(QUEUE, "a"))


def test_entries_that_are_no_answers_are_left_out(redis_client):
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
    answers.add(redis_client, QUEUE, "a", [(1, 2), longest])
    assert answers.read(redis_client, QUEUE, "a", "")[0] == [(1, 2), longest]
    redis_client.delete(key)
