"""What a worker reports of the prompts that its cache holds."""

from __future__ import annotations

from penstock.engine.reuse.held_heads import MOST, HeldHeads


def test_only_what_the_cache_has_dropped_is_lost_and_once():
    cache = {b"a", b"b"}
    heads = HeldHeads(cache.__contains__)
    heads.add("x", b"a")
    heads.add("y", b"b")
    heads.add("never computed", None)
    assert heads.lost() == ["never computed"]
    cache.discard(b"a")
    assert heads.lost() == ["x"]
    assert heads.lost() == []
    heads.add("y", b"c")
    assert heads.lost() == ["y"]


def test_a_request_that_computed_nothing_leaves_what_an_earlier_one_did():
    heads = HeldHeads(lambda digest: digest == b"a")
    heads.add("x", b"a")
    heads.add("x", None)
    assert heads.lost() == []


def test_they_are_bounded():
    heads = HeldHeads(lambda _digest: False)
    for number in range(MOST + 10):
        heads.add(str(number), b"")
    assert len(heads.lost()) == MOST
