"""Layers with a window: blocks behind it are released, and every text stays right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.kv_cache import BlockPool, BlockTables
from penstock.engine.options import EngineOptions
from penstock.engine.scheduler import Scheduler
from penstock.engine.sequence import Sequence, SequenceRequest
from tests.fixtures.engine import Transcript, WindowModel, WordTokenizer, greedy_text, serve
from tests.unit.engine.test_scheduler import VOCAB, Loop, arrivals

SIZE = 4


class WindowLoop(Loop):
    """A `Loop` over a model with windows; `full_blocks` are those of layers that see all, if any do."""

    def __init__(
        self,
        window: int,
        window_blocks: int,
        full_blocks: int | None = None,
        *,
        slots: int = 4,
        chunk: int = 8,
        caching: bool = True,
    ) -> None:
        self.states = None
        mixed = full_blocks is not None
        blocks = full_blocks if full_blocks is not None else window_blocks
        self.model = WindowModel(blocks, window, full_layers=mixed, vocab_size=VOCAB)
        windows = BlockPool(window_blocks, SIZE, caching=caching, window=window)
        self.windows = windows
        self.pool = BlockPool(blocks, SIZE, caching=caching) if mixed else windows
        if mixed:
            self.model.allocate_windows(window_blocks)
        tables = BlockTables(self.pool, windows if mixed else None)
        self.scheduler = Scheduler(tables, slots)
        self.chunk = chunk
        self.sequences: dict[str, Sequence] = {}
        self.ended: list[str] = []
        self.preempted: list[str] = []

    def live(self, sequence: Sequence) -> list[int]:
        """The blocks of the layers with a window that a sequence has."""
        table = sequence.window_table if self.pool is not self.windows else sequence.block_table
        return table[sequence.dropped_blocks :]

    def assert_sound(self) -> None:
        """No block leaked, and none behind a window is kept."""
        used: set[int] = set()
        full: set[int] = set()
        for sequence in self.scheduler.running:
            live = self.live(sequence)
            used.update(live)
            assert len(set(live)) == len(live)
            first = self.windows.first_needed(sequence.computed)
            assert sequence.dropped_blocks == min(first, sequence.dropped_blocks + len(live) - 1)
            if self.pool is not self.windows:
                full.update(sequence.block_table)
                assert len(set(sequence.block_table)) == len(sequence.block_table)
        held = {id(self.pool): (self.pool, full), id(self.windows): (self.windows, used)}
        for pool, blocks in held.values():
            assert pool.idle(blocks) == 0
            assert pool.available == pool.num_blocks - len(blocks)
        for sequence in self.scheduler.waiting:
            assert sequence.block_table == sequence.window_table == []
            assert sequence.computed == sequence.dropped_blocks == 0
        assert len(self.scheduler.running) <= self.scheduler.slots


@settings(max_examples=200, deadline=None)
@given(
    arrivals,
    st.integers(2, 12),
    st.integers(0, 9),
    st.none() | st.integers(9, 20),
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
    st.none() | st.integers(0, 99),
)
def test_every_sequence_gets_the_right_text(  # noqa: PLR0917 - hypothesis fills them in
    coming, window, spare, full_blocks, slots, chunk, caching, seed
):
    """Arrivals, removals, preemptions, shared prefixes, drafts, with few blocks and many."""
    least = -(-window // SIZE) + 2
    loop = WindowLoop(window, least + spare, full_blocks, slots=slots, chunk=chunk, caching=caching)
    rng = random.Random(seed)
    right = [greedy_text(one.prompt, one.count, VOCAB) for one in coming]
    for turn in range(2_000):
        loop.arrive(coming, turn)
        loop.step({} if seed is None else loop.some_drafts(right, rng))
        if turn > 30 and not (loop.scheduler.running or loop.scheduler.waiting):
            break
    else:
        pytest.fail("a sequence never ends")
    for number, one in enumerate(coming):
        text = loop.text_of(f"{number}")
        assert text == right[number][: len(text)]
        assert one.abort_after is not None or text == right[number]
    assert loop.windows.available == loop.windows.num_blocks
    assert loop.pool.available == loop.pool.num_blocks


@pytest.mark.parametrize("full_blocks", [None, 80])
def test_a_long_text_needs_no_more_blocks_than_its_window(full_blocks: int | None) -> None:
    loop = WindowLoop(8, 6, full_blocks, slots=1, chunk=8)  # 24 tokens: the window, and a chunk
    prompt = [(7 * n) % VOCAB for n in range(150)]
    sequence = loop.add("long", prompt, 40)
    while sequence.finish_reason is None:
        loop.step()
        assert len(loop.live(sequence)) <= 5
    assert loop.preempted == []
    assert loop.text_of("long") == greedy_text(prompt, 40, VOCAB)


@pytest.mark.parametrize("full_blocks", [None, 80])
def test_a_prefix_is_reused_if_its_last_window_is_cached(full_blocks: int | None) -> None:
    loop = WindowLoop(8, 12, full_blocks, slots=1, chunk=8)
    prompt = [(7 * n) % VOCAB for n in range(101)]
    loop.add("first", prompt, 4)
    loop.finish()
    second = loop.add("second", prompt, 4)
    third = loop.add("third", [*prompt[:92], 1, 2, 3], 4)
    loop.finish()
    assert second.usage.cached_tokens == 100
    assert third.usage.cached_tokens == 92
    early = loop.add("early", [*prompt[:20], 1, 2, 3], 4)  # its window was evicted long ago
    loop.finish()
    assert early.usage.cached_tokens == 0
    for job, text in (("second", prompt), ("early", [*prompt[:20], 1, 2, 3])):
        assert loop.text_of(job) == greedy_text(text, 4, VOCAB)


def test_the_youngest_is_preempted_where_windows_are_short() -> None:
    loop = WindowLoop(16, 7, None, slots=2, chunk=8)
    loop.add("old", [1] * 4, 30)
    loop.add("young", [2] * 4, 30)
    loop.finish()
    assert set(loop.preempted) == {"young"}
    assert loop.text_of("young") == greedy_text([2] * 4, 30, VOCAB)


def test_an_engine_serves_longer_texts_than_its_window_blocks_hold() -> None:
    model = WindowModel(10, 8, full_layers=False, vocab_size=VOCAB)
    transcript = Transcript()
    options = EngineOptions(2, 60, prefill_chunk_tokens=16, num_window_blocks=10)
    engine = Engine(model, WordTokenizer(), options, transcript)
    prompts = {"a": [3] * 120, "b": [(5 * n) % VOCAB for n in range(90)]}
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=30)
    serve(engine, *(SequenceRequest(job, prompt, sampling) for job, prompt in prompts.items()))
    for job, prompt in prompts.items():
        assert transcript.tokens[job] == greedy_text(prompt, 30, VOCAB)
    assert engine.load().kv_use == pytest.approx(0.0)
