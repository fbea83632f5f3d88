from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.kv_cache import BlockPool, OutOfBlocks
from penstock.engine.reuse.digests import extend_digests
from penstock.engine.sequence import Adapter


def digests_of(tokens: list[int], size: int = 2) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, tokens, size)
    return digests


def match(pool: BlockPool, digests: list[bytes]) -> list[int]:
    counts = pool.reusable(digests)
    return pool.known(digests[: counts[-1]]) if counts else []


def test_digests_cover_full_blocks_and_all_before_them():
    assert len(digests_of([1, 2, 3])) == 1
    one, other = digests_of([1, 2, 3, 4]), digests_of([9, 2, 3, 4])
    assert one[0] != other[0]
    assert one[1] != other[1]  # the same block after another beginning
    grown = digests_of([1, 2, 3])
    extend_digests(grown, [1, 2, 3, 4], 2)
    assert grown == one


def test_digests_are_an_adapters_own():
    chains: list[list[bytes]] = []
    for adapter in (None, Adapter(b"one", None), Adapter(b"two", None)):
        chains.append([])
        extend_digests(chains[-1], [1, 2, 3, 4], 2, adapter=adapter)
    assert chains[0] == digests_of([1, 2, 3, 4])
    assert len({digest for chain in chains for digest in chain}) == 6


def test_a_released_full_block_is_found_again_and_then_held():
    pool = BlockPool(4, 2)
    blocks = pool.allocate(2)
    digests = digests_of([1, 2, 3, 4])
    for block, digest in zip(blocks, digests, strict=True):
        pool.register(block, digest)
    pool.release(blocks)
    assert pool.available == 4
    assert match(pool, digests) == blocks
    assert pool.idle(blocks) == 2
    pool.acquire(blocks)
    assert pool.available == 2
    assert pool.idle(blocks) == 0
    pool.acquire(blocks)  # a second sequence
    pool.release(blocks)
    assert pool.available == 2
    assert not set(pool.allocate(2)) & set(blocks)


def test_the_least_recently_used_end_of_a_prefix_goes_first():
    pool = BlockPool(3, 2)
    blocks = pool.allocate(3)
    digests = digests_of([1, 2, 3, 4, 5, 6])
    for block, digest in zip(blocks, digests, strict=True):
        pool.register(block, digest)
    pool.release(blocks)
    pool.allocate(1)
    assert match(pool, digests) == blocks[:2]
    pool.allocate(1)
    assert match(pool, digests) == blocks[:1]


def test_without_caching_nothing_is_found():
    pool = BlockPool(2, 2, caching=False)
    blocks = pool.allocate(1)
    pool.register(blocks[0], b"x")
    pool.release(blocks)
    assert match(pool, [b"x"]) == []


def test_asking_for_too_much_takes_nothing():
    pool = BlockPool(2, 2)
    with pytest.raises(OutOfBlocks):
        pool.allocate(3)
    assert pool.available == 2


@given(st.lists(st.tuples(st.sampled_from("afrm"), st.integers(0, 5)), max_size=60))
def test_references_and_free_blocks_always_add_up(actions: list[tuple[str, int]]):
    pool = BlockPool(6, 2)
    held: list[list[int]] = []
    known: set[bytes] = set()
    for action, number in actions:
        if action == "a" and number <= pool.available:
            held.append(pool.allocate(number))
        elif action == "f" and held:
            pool.release(held.pop(number % len(held)))
        elif action == "r" and held and held[-1]:
            digest = bytes([number])
            pool.register(held[-1][0], digest)
            known.add(digest)
        elif action == "m":
            matched = match(pool, [bytes([number])])
            pool.acquire(matched)
            held.append(matched)
        distinct = {block for blocks in held for block in blocks}
        assert pool.available == pool.num_blocks - len(distinct)
        assert pool.use == pytest.approx(len(distinct) / pool.num_blocks)
    for blocks in held:
        pool.release(blocks)
    assert sorted(pool.allocate(6)) == list(range(6))
