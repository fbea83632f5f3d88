"""Whatever comes and goes: every text is right, every block comes back, every budget holds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contract.events import FinishReason
from penstock.contract.job import Sampling
from penstock.engine.kv_cache import BlockPool, BlockTables
from penstock.engine.model import Batch
from penstock.engine.options import EngineOptions
from penstock.engine.pacing.prefill_budget import PrefillBudget
from penstock.engine.scheduler import Scheduler
from penstock.engine.sequence import Limits, Sequence, SequenceRequest
from penstock.engine.states import StatePool
from penstock.engine.text.detokenizer import DecodeCache
from penstock.errors import BadSettings
from tests.fixtures.engine import HashModel, StateModel, WordTokenizer, greedy_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.engine.step import Step

VOCAB = 50


LIMITS = Limits(256, VOCAB, frozenset())


class Loop:
    """Serves sequences greedily by the scheduler's own methods, on a model that checks its blocks."""

    def __init__(
        self,
        blocks: int,
        *,
        slots: int = 4,
        chunk: int = 8,
        caching: bool = True,
        kept_states: int | None = None,
    ) -> None:
        """`kept_states` beside those of the slots; None: the model keeps no states."""
        self.states: StatePool | None = None
        if kept_states is None:
            self.model = HashModel(blocks, vocab_size=VOCAB)
        else:
            self.model = StateModel(blocks, slots + kept_states, vocab_size=VOCAB)
            self.states = StatePool(self.model, slots + kept_states)
        self.pool = BlockPool(blocks, self.model.kv_layout.block_size, caching=caching)
        self.scheduler = Scheduler(BlockTables(self.pool), slots, self.states)
        self.chunk = chunk
        self.sequences: dict[str, Sequence] = {}
        self.ended: list[str] = []
        self.preempted: list[str] = []

    def add(self, job: str, prompt: list[int], count: int, **kwargs: Any) -> Sequence:
        """Let a sequence wait; `count` tokens end it."""
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=count)
        request = SequenceRequest(job, prompt, sampling, **kwargs)
        key = len(self.sequences) + 1
        sequence = Sequence(request, key, LIMITS, DecodeCache(WordTokenizer()))
        self.sequences[job] = sequence
        self.scheduler.add(sequence)
        return sequence

    def arrive(self, coming: list[Any], turn: int) -> None:
        """Add and remove the sequences of `arrivals` whose turn it is; their jobs are their places."""
        for number, one in enumerate(coming):
            if one.turn == turn:
                self.add(f"{number}", one.prompt, one.count, priority=one.priority)
            if one.abort_after is not None and one.turn + one.abort_after == turn:
                self.remove(f"{number}")

    def some_drafts(self, right: list[list[int]], rng: random.Random) -> dict[int, list[int]]:
        """Right and wrong drafts of the decoding sequences of `arrive`, whose texts are `right`."""
        drafts: dict[int, list[int]] = {}
        for sequence in self.scheduler.decoding():
            answer, done = right[int(sequence.request.job_id)], sequence.generated
            draft = answer[done : done + rng.randint(0, 5)]
            if draft and rng.random() < 0.5:
                draft[rng.randrange(len(draft))] = rng.randrange(VOCAB)
            drafts[sequence.key] = draft
        return drafts

    def remove(self, job: str) -> None:
        """Give a sequence up, if it has not ended."""
        if job not in self.ended and job in self.sequences:
            self.scheduler.remove(self.sequences[job])
            self.ended.append(job)

    def step(self, drafts: Mapping[int, list[int]] = MappingProxyType({})) -> Step:
        """Schedule, run, postprocess."""
        step = self.scheduler.schedule(self.chunk, drafts)
        self.preempted += [sequence.request.job_id for sequence in step.preempted]
        if step.slices:
            rows = iter(self.model.forward(Batch(step.slices)).argmax(1).tolist())
            for sequence, draft in zip(step.sampled, step.drafts, strict=True):
                _append(sequence, [next(rows) for _ in range(1 + len(draft))], draft)
            self.scheduler.advance(step)
        for sequence in step.sampled:
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence)
                self.ended.append(sequence.request.job_id)
        self.assert_sound()
        return step

    def finish(self) -> None:
        """Step until every sequence has ended."""
        for _ in range(2_000):
            if not (self.scheduler.running or self.scheduler.waiting):
                return
            self.step()
        pytest.fail("a sequence never ends")

    def text_of(self, job: str) -> list[int]:
        """The answer's tokens so far."""
        sequence = self.sequences[job]
        return sequence.token_ids[sequence.prompt_length :]

    def assert_sound(self) -> None:
        """No block leaked, none is in two sequences but for a common prefix."""
        scheduler, pool = self.scheduler, self.pool
        prefixes: dict[int, set[tuple[int, ...]]] = {}
        for sequence in scheduler.running:
            assert pool.blocks_for(len(sequence.token_ids)) <= len(sequence.block_table) + 1
            assert len(set(sequence.block_table)) == len(sequence.block_table)
            for index, block in enumerate(sequence.block_table):
                end = (index + 1) * pool.block_size
                prefixes.setdefault(block, set()).add(tuple(sequence.token_ids[:end]))
        for block, contents in prefixes.items():
            sharers = [s for s in scheduler.running if block in s.block_table]
            assert len(contents) == 1
            assert len(sharers) == 1 or len(next(iter(contents))) % pool.block_size == 0
        for sequence in scheduler.waiting:
            assert sequence.block_table == []
            assert sequence.computed == 0
        assert pool.idle(prefixes) == 0
        assert pool.available == pool.num_blocks - len(prefixes)
        assert len(scheduler.running) <= scheduler.slots
        if self.states is not None:
            places = {sequence.state for sequence in scheduler.running}
            assert len(places - {-1}) == len(scheduler.running)
            assert self.states.available == self.states.count - len(places)


def _append(sequence: Sequence, tokens: list[int], draft: tuple[int, ...]) -> None:
    """Append the next token and, while the draft is right, those after it."""
    for token, drafted in zip(tokens, (*draft, None), strict=True):
        sequence.append(token)
        if sequence.finish_reason is not None or token != drafted:
            return


@dataclass
class Arrival:
    turn: int
    prompt: list[int]
    count: int
    priority: int
    abort_after: int | None


# Prompts share beginnings, so that the prefix cache has something to find.
BEGINNINGS = ([], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 9, 9, 9, 9])
arrivals = st.lists(
    st.builds(
        Arrival,
        turn=st.integers(0, 12),
        prompt=st.builds(
            lambda beginning, rest: beginning + rest,
            st.sampled_from(BEGINNINGS),
            st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14),
        ),
        count=st.integers(1, 12),
        priority=st.integers(4, 6),
        abort_after=st.none() | st.integers(0, 8),
    ),
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(
    arrivals,
    st.integers(9, 20),  # blocks of 4: the longest sequence, 34 tokens, fits into 9
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
    st.none() | st.integers(0, 99),
    st.none() | st.integers(0, 4),
)
def test_every_sequence_gets_the_right_text(  # noqa: PLR0917 - hypothesis fills them in
    coming, blocks, slots, chunk, caching, seed, kept_states
):
    """Arrivals, removals, preemptions, shared prefixes, right and wrong drafts, kept states."""
    loop = Loop(blocks, slots=slots, chunk=chunk, caching=caching, kept_states=kept_states)
    rng = random.Random(seed)
    right = [greedy_text(one.prompt, one.count, VOCAB) for one in coming]
    for turn in range(2_000):
        loop.arrive(coming, turn)
        drafts = {} if seed is None else loop.some_drafts(right, rng)
        again = sum(s.remaining - 1 for s in loop.scheduler.running if s.replays)
        step = loop.step(drafts)
        decoded = sum(len(part.token_ids) for part in step.slices) - step.prefill_tokens
        assert decoded == step.decode_tokens <= slots + step.drafted_tokens + again
        assert step.prefill_tokens <= chunk
        if turn > 30 and not (loop.scheduler.running or loop.scheduler.waiting):
            break
    else:
        pytest.fail("a sequence never ends")
    for number, one in enumerate(coming):
        job = f"{number}"
        text = loop.text_of(job)
        assert text == right[number][: len(text)]
        if one.abort_after is None:
            assert text == right[number]
            assert loop.sequences[job].finish_reason is FinishReason.LENGTH
            assert loop.sequences[job].usage.cached_tokens < len(one.prompt)
    assert loop.pool.available == blocks


def test_decoding_streams_go_on_beside_a_long_prompt():
    loop = Loop(60, chunk=8)
    loop.add("stream", [1, 2], 30)
    loop.step()
    loop.add("long", [3] * 80, 2)
    while not loop.text_of("long"):
        before = len(loop.text_of("stream"))
        loop.step()
        assert len(loop.text_of("stream")) == before + 1
    assert max(computed for _, computed in loop.model.steps) <= 1 + 8


def test_prompts_are_served_in_the_order_of_arrival_and_priority():
    loop = Loop(60, slots=1)
    for job, priority in [("a", 5), ("b", 5), ("urgent", 0), ("late", 9), ("c", 5)]:
        loop.add(job, [1, 2, 3], 2, priority=priority)
    loop.finish()
    assert loop.ended == ["urgent", "a", "b", "c", "late"]


def test_an_answer_that_another_worker_began_goes_before_new_ones_of_its_priority():
    loop = Loop(60, slots=1)
    begun = greedy_text([1, 2, 3], 1, VOCAB)
    loop.add("new", [1, 2, 3], 2)
    loop.add("urgent", [1, 2, 3], 2, priority=0)
    loop.add("begun", [1, 2, 3], 2, generated_token_ids=tuple(begun))
    loop.finish()
    assert loop.ended == ["urgent", "begun", "new"]


def test_the_youngest_is_preempted_and_comes_back_with_the_same_text():
    loop = Loop(8, slots=2, chunk=32)
    loop.add("old", [1] * 8, 20)
    loop.add("young", [2] * 8, 20)
    loop.finish()
    assert set(loop.preempted) == {"young"}
    assert loop.ended == ["old", "young"]
    assert loop.text_of("young") == greedy_text([2] * 8, 20, VOCAB)


def test_a_shared_prefix_is_computed_once():
    loop = Loop(40, chunk=64)
    prompt = list(range(30))
    for job, cached in (("first", 0), ("second", 28)):
        before = len(loop.model.steps)
        loop.add(job, prompt, 1)
        loop.finish()
        assert loop.model.steps[before][1] == len(prompt) - cached
        assert loop.sequences[job].usage.cached_tokens == cached
    # A prompt of whole blocks leaves one block to compute: its last token's logits are needed.
    third = loop.add("third", prompt[:28], 1)
    loop.finish()
    assert third.usage.cached_tokens == 24
    assert loop.text_of("third") == greedy_text(prompt[:28], 1, VOCAB)


def test_an_answer_is_cached_for_the_next_turn_of_a_chat():
    loop = Loop(40, chunk=64)
    loop.add("first", [1, 2, 3, 4, 5], 8)
    loop.finish()
    second = loop.add("second", [1, 2, 3, 4, 5, *loop.text_of("first"), 6], 1)
    loop.finish()
    assert second.usage.cached_tokens == 12


def test_answers_to_one_prompt_compute_it_once() -> None:
    loop = Loop(64, slots=4, chunk=8)
    prompt = list(range(1, 31))  # seven full blocks, in four chunks
    for job in ("a", "b", "c"):
        loop.add(job, prompt, 3)
    loop.add("other", [40, 41], 3)
    while not loop.text_of("other"):
        loop.step()
    assert len(loop.text_of("a")) == 1, "the other one does not wait with the siblings"
    assert not loop.text_of("b")
    loop.finish()
    for job in ("a", "b", "c"):
        assert loop.text_of(job) == greedy_text(prompt, 3, VOCAB)
    assert [loop.sequences[job].usage.cached_tokens for job in ("a", "b", "c")] == [0, 28, 28]
    # The prompt once, the siblings' last two tokens, the other's prompt, and what was decoded.
    assert sum(tokens for _, tokens in loop.model.steps) == 30 + 2 + 2 + 2 + 4 * 2


def test_a_sibling_goes_on_alone_when_the_first_one_goes() -> None:
    loop = Loop(64, slots=4, chunk=8)
    prompt = list(range(1, 31))
    for job in ("a", "b"):
        loop.add(job, prompt, 3)
    loop.step()
    loop.remove("a")
    loop.finish()
    assert loop.text_of("b") == greedy_text(prompt, 3, VOCAB)


def test_a_draft_leaves_the_place_for_the_state_of_a_sequence_that_starts() -> None:
    loop = Loop(60, slots=2, kept_states=0)
    first = loop.add("first", [1, 2, 3], 6)
    loop.step()
    drafted = greedy_text([1, 2, 3], 6, VOCAB)[1:3]
    assert loop.step({first.key: drafted[:1]}).drafted_tokens == 1
    loop.add("second", [4, 5], 3)
    assert loop.step({first.key: drafted[1:]}).drafted_tokens == 0
    loop.finish()
    assert loop.text_of("first") == greedy_text([1, 2, 3], 6, VOCAB)
    assert loop.text_of("second") == greedy_text([4, 5], 3, VOCAB)


def test_the_step_after_one_under_way_is_chosen_before_its_tokens_are_known() -> None:
    loop = Loop(64, chunk=64)
    short, long = loop.add("short", [1, 2, 3], 2), loop.add("long", [4, 5, 6], 5)
    loop.step()
    under_way = loop.scheduler.schedule(64)
    following = loop.scheduler.follow(under_way)
    assert following.sequences == following.sampled == [long], "the other one ends with it"
    (part,) = following.slices
    assert (part.start, len(part.token_ids), part.logits_from) == (len(long.token_ids), 1, 0)
    assert short.max_length == len(short.token_ids) + 1


def test_no_step_follows_where_it_cannot_be_known() -> None:
    full = Loop(4, slots=2, chunk=64)
    full.add("a", [1, 2, 3], 9)
    full.step()
    full.pool.allocate(full.pool.available)
    assert not full.scheduler.follow(full.scheduler.schedule(64)).slices, "no block is free"
    arriving = Loop(64, chunk=64)
    arriving.add("a", [1, 2, 3], 9)
    arriving.step()
    under_way = arriving.scheduler.schedule(64)
    arriving.add("b", [4, 5], 3)
    assert not arriving.scheduler.follow(under_way).slices, "one waits and may be admitted"
    last = Loop(64, chunk=64)
    last.add("a", [1, 2, 3], 2)
    last.step()
    assert not last.scheduler.follow(last.scheduler.schedule(64)).slices, "all end with it"


def test_budget_is_fixed_without_a_target():
    budget = PrefillBudget(EngineOptions(4, 4, prefill_chunk_tokens=100))
    for step_s in (0.001, 10.0):
        budget.observe(tokens=14, step_s=step_s)
        assert budget.tokens(decoding=4) == 100
        assert budget.tokens(decoding=0) == 100


def test_budget_keeps_steps_under_the_target():
    options = EngineOptions(4, 4, prefill_chunk_tokens=256, target_step_ms=100, min_chunk_tokens=4)
    budget = PrefillBudget(options)
    assert budget.tokens(decoding=4) == 64

    def step_s(tokens: int, *, token_s: float) -> float:
        return 0.02 + tokens * token_s

    for token_s in (0.005, 0.0002, 0.002):  # the machine's speed changes: the budget follows
        for _ in range(60):
            budget.observe(tokens=4, step_s=step_s(4, token_s=token_s))
            tokens = 4 + budget.tokens(decoding=4)
            budget.observe(tokens=tokens, step_s=step_s(tokens, token_s=token_s))
        tokens = 4 + budget.tokens(decoding=4)
        assert step_s(tokens, token_s=token_s) == pytest.approx(0.1, rel=0.15)
        assert budget.tokens(decoding=0) > 3 * budget.tokens(decoding=4)


def test_prompts_get_on_where_decoding_alone_takes_longer_than_the_target():
    budget = PrefillBudget(EngineOptions(64, 4, target_step_ms=100))
    for tokens in (32, 48, 64, 96) * 10:
        budget.observe(tokens=tokens, step_s=tokens * 0.005)
    chunk = budget.tokens(decoding=32)
    assert chunk * 0.005 == pytest.approx(32 * 0.005, rel=0.1)


def test_a_lone_prompt_gets_longer_chunks():
    budget = PrefillBudget(EngineOptions(4, 4, prefill_chunk_tokens=100, lone_chunk_tokens=400))
    assert budget.tokens(decoding=0) == 100
    assert budget.tokens(decoding=0, alone=True) == 400
    budget.shrink()
    budget.recover()
    assert budget.tokens(decoding=0, alone=True) == 100, "memory ran out with them"


def test_a_lone_prompt_gets_longer_chunks_within_the_target():
    options = EngineOptions(4, 4, target_step_ms=100, max_chunk_tokens=100, lone_chunk_tokens=400)
    budget = PrefillBudget(options)
    for token_s, longest in ((0.0001, 400), (0.002, 205)):
        for tokens in (50, 100, 200) * 40:
            budget.observe(tokens=tokens, step_s=0.01 + tokens * token_s)
        assert budget.tokens(decoding=0) == 100
        assert budget.tokens(decoding=0, alone=True) == pytest.approx(longest, rel=0.1)


def test_one_sequence_is_alone_until_another_comes():
    loop = Loop(64, chunk=4)
    assert not loop.scheduler.is_alone
    loop.add("a", [1, 2, 3, 4, 5, 6], 2)
    assert loop.scheduler.is_alone
    loop.step()
    assert loop.scheduler.is_alone
    loop.add("b", [1, 2, 3], 2)
    assert not loop.scheduler.is_alone
    scored = Loop(64, chunk=4)
    scored.add("a", [1, 2, 3, 4, 5, 6], 2, scores_prompt=True)
    assert not scored.scheduler.is_alone, "each token of its prompt has logits"


def test_budget_shrinks_and_recovers():
    budget = PrefillBudget(EngineOptions(4, 4, prefill_chunk_tokens=5))
    budget.shrink()
    assert budget.tokens(decoding=0) == 2
    budget.shrink()
    assert budget.exhausted
    for _ in range(5):
        budget.recover()
    assert budget.tokens(decoding=0) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"num_blocks": 0},
        {"prefill_chunk_tokens": 0},
        {"target_step_ms": 0.0},
        {"max_chunk_tokens": 1},
        {"lone_chunk_tokens": -1},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BadSettings):
        EngineOptions(**{"slots": 1, "num_blocks": 1, **wrong})
