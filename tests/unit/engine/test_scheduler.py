"""Whatever comes and goes: every text is right, every block comes back, every budget holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contract.events import FinishReason
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine, _Abort
from penstock.engine.options import EngineOptions
from penstock.engine.pacing.prefill_budget import PrefillBudget
from penstock.engine.sequence import SequenceRequest
from penstock.errors import BadSettings
from tests.fixtures.engine import HashModel, Transcript, WordTokenizer, greedy_text

VOCAB = 50


def request(job: str, prompt: list[int], count: int, **kwargs) -> SequenceRequest:
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=count)
    return SequenceRequest(job, prompt, sampling, **kwargs)


def engine_of(
    blocks: int, *, slots: int = 4, chunk: int = 8, caching: bool = True, **model
) -> tuple[Engine, HashModel, Transcript]:
    fake, told = HashModel(blocks, vocab_size=VOCAB, **model), Transcript()
    options = EngineOptions(slots, blocks, prefill_chunk_tokens=chunk, prefix_caching=caching)
    return Engine(fake, WordTokenizer(), options, told), fake, told


def assert_sound(engine: Engine) -> None:
    """No block leaked, none held by two but for a common prefix."""
    scheduler = engine._scheduler
    pool = scheduler.pool
    counted = [0] * pool.num_blocks
    holders: dict[int, list[tuple[int, ...]]] = {}
    for sequence in scheduler.running:
        assert pool.blocks_for(len(sequence.token_ids)) <= len(sequence.block_table) + 1
        for index, block in enumerate(sequence.block_table):
            counted[block] += 1
            end = (index + 1) * pool.block_size
            holders.setdefault(block, []).append(tuple(sequence.token_ids[:end]))
    for sequence in scheduler.waiting:
        assert sequence.block_table == []
        assert sequence.computed == 0
    assert counted == pool._references
    for prefixes in holders.values():
        if len(prefixes) > 1:
            assert len(set(prefixes)) == 1
            assert len(prefixes[0]) % pool.block_size == 0
    assert len(scheduler.running) <= scheduler.slots


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
)
def test_everybody_gets_the_right_text(coming, blocks, slots, chunk, caching):
    engine, model, told = engine_of(blocks, slots=slots, chunk=chunk, caching=caching)
    turn, more = 0, False
    while more or turn <= 30:
        commands = []
        for number, one in enumerate(coming):
            if one.turn == turn:
                commands.append(request(str(number), one.prompt, one.count, priority=one.priority))
            if one.abort_after is not None and one.turn + one.abort_after == turn:
                commands.append(_Abort(frozenset([str(number)])))
        before = len(model.steps)
        more = engine._turn(commands)
        assert_sound(engine)
        for decoded, computed in model.steps[before:]:
            assert decoded <= slots
            assert computed <= slots + chunk
        turn += 1
        assert turn < 2_000, "somebody never ends"
    for number, one in enumerate(coming):
        right = greedy_text(one.prompt, one.count, VOCAB)
        got = told.tokens.get(str(number), [])
        if one.abort_after is None:
            end = told.ends[str(number)]
            assert end.reason is FinishReason.LENGTH
            assert got == right
            assert end.usage.prompt_tokens == len(one.prompt)
            assert end.usage.cached_tokens < len(one.prompt)
            assert told.text[str(number)] == "".join(f" {token}" for token in right)
        else:
            assert got == right[: len(got)]
    assert engine._scheduler.pool.available == blocks
    assert not engine.busy()


def test_decoding_streams_go_on_beside_a_long_prompt():
    engine, model, told = engine_of(60, chunk=8)
    engine._turn([request("stream", [1, 2], 30)])
    engine._turn([request("long", [3] * 80, 2)])
    while "long" not in told.tokens:
        before = len(told.tokens["stream"])
        engine._turn([])
        assert len(told.tokens["stream"]) == before + 1
    assert max(computed for _, computed in model.steps) <= 1 + 8


def test_prompts_are_served_in_the_order_of_arrival_and_priority():
    engine, _, told = engine_of(60, slots=1)
    jobs = [("a", 5), ("b", 5), ("urgent", 0), ("late", 9), ("c", 5)]
    engine._turn([request(job, [1, 2, 3], 2, priority=priority) for job, priority in jobs])
    while engine._turn([]):
        pass
    assert list(told.ends) == ["urgent", "a", "b", "c", "late"]


def test_an_answer_that_another_worker_began_goes_before_new_ones_of_its_priority():
    engine, _, told = engine_of(60, slots=1)
    begun = greedy_text([1, 2, 3], 1, VOCAB)
    told.start["begun"] = 1
    engine._turn(
        [
            request("new", [1, 2, 3], 2),
            request("urgent", [1, 2, 3], 2, priority=0),
            request("begun", [1, 2, 3], 2, generated_token_ids=tuple(begun)),
        ]
    )
    while engine._turn([]):
        pass
    assert list(told.ends) == ["urgent", "begun", "new"]


def test_the_youngest_is_preempted_and_comes_back_with_the_same_text():
    engine, model, told = engine_of(8, slots=2, chunk=32)
    engine._turn([request("old", [1] * 8, 20), request("young", [2] * 8, 20)])
    while engine._turn([]):
        assert_sound(engine)
    assert engine.load().preempted_total >= 1
    assert list(told.ends) == ["old", "young"]
    assert told.tokens["young"] == greedy_text([2] * 8, 20, VOCAB)
    assert 2 in model.released


def test_a_shared_prefix_is_computed_once():
    engine, model, told = engine_of(40, chunk=64)
    prompt = list(range(30))
    for job, cached in (("first", 0), ("second", 28)):
        before = len(model.steps)
        while engine._turn([request(job, prompt, 1)] if job not in told.tokens else []):
            pass
        assert model.steps[before][1] == len(prompt) - cached
        assert told.ends[job].usage.cached_tokens == cached
    # A prompt of whole blocks leaves one block to compute: its last token's logits are needed.
    engine._turn([request("third", prompt[:28], 1)])
    assert told.ends["third"].usage.cached_tokens == 24
    assert told.tokens["third"] == greedy_text(prompt[:28], 1, VOCAB)


def test_an_answer_is_cached_for_the_next_turn_of_a_chat():
    engine, _, told = engine_of(40, chunk=64)
    engine._turn([request("first", [1, 2, 3, 4, 5], 8)])
    while engine._turn([]):
        pass
    history = [1, 2, 3, 4, 5, *told.tokens["first"], 6]
    engine._turn([request("second", history, 1)])
    assert told.ends["second"].usage.cached_tokens == 12


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
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BadSettings):
        EngineOptions(**{"slots": 1, "num_blocks": 1, **wrong})


def test_answers_to_one_prompt_compute_it_once() -> None:
    engine, fake, told = engine_of(64, slots=4, chunk=8)
    prompt = list(range(1, 31))  # seven full blocks, in four chunks
    for job in ("a", "b", "c"):
        engine._accept(request(job, prompt, 3))
    engine._accept(request("other", [40, 41], 3))
    for _ in range(30):
        if events := engine.step():
            told(events)
        assert_sound(engine)
    assert told.ends.keys() == {"a", "b", "c", "other"}
    for job in ("a", "b", "c"):
        assert told.tokens[job] == greedy_text(prompt, 3, VOCAB)
    usages = [told.ends[job].usage.cached_tokens for job in ("a", "b", "c")]
    assert usages == [0, 28, 28]
    # The prompt once, the siblings' last two tokens, the other's prompt, and what was decoded.
    assert sum(tokens for _, tokens in fake.steps) == 30 + 2 + 2 + 2 + 4 * 2
    # The other one does not wait with the siblings.
    assert [event.job_id for event in told.events[:2]] == ["a", "other"]


def test_a_sibling_goes_on_alone_when_the_first_one_goes() -> None:
    engine, _, told = engine_of(64, slots=4, chunk=8)
    prompt = list(range(1, 31))
    for job in ("a", "b"):
        engine._accept(request(job, prompt, 3))
    engine.step()
    engine._drop("a")
    for _ in range(12):
        if events := engine.step():
            told(events)
    assert told.tokens == {"b": greedy_text(prompt, 3, VOCAB)}
