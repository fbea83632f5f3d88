"""States of hybrids: kept at the ends of blocks, found again, given back, never one too many."""

from __future__ import annotations

import pytest

from penstock.contract.events import Failed, Finished
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.engine.states import StatePool
from penstock.errors import BadSettings
from tests.fixtures.engine import StateModel, Transcript, WordTokenizer, greedy_text, serve
from tests.unit.engine.test_scheduler import VOCAB, Loop

SYSTEM = list(range(20))  # five blocks
PROMPT = [*SYSTEM, *range(20, 42)]  # ten full blocks and two tokens


def test_the_least_recently_used_state_gives_way() -> None:
    model = StateModel(4, 3)
    pool = StatePool(model, 3)
    running = pool.take()
    for digest in (b"a", b"b"):
        pool.keep(digest, running)
    pool.release(running)
    running = pool.take(b"a")
    pool.keep(b"c", running)
    assert [pool.holds(digest) for digest in (b"a", b"b", b"c")] == [True, False, True]
    second, third = pool.take(), pool.take()
    assert {running, second, third} == {0, 1, 2}
    assert pool.kept == pool.available == 0
    pool.keep(b"d", running)
    assert not pool.kept, "there is no room"
    pool.release(second)
    pool.keep(b"d", running)
    pool.forget(b"d")
    assert pool.available == 1


def test_the_only_kept_state_is_handed_over_where_no_place_is_free() -> None:
    model = StateModel(4, 2)
    pool = StatePool(model, 2)
    first = pool.take()
    pool.keep(b"a", first)
    assert {first, pool.take(b"a")} == {0, 1}
    assert len(model.copies) == 1
    assert not pool.kept


def test_the_state_behind_a_prompt_is_taken_over() -> None:
    loop = Loop(60, chunk=64, kept_states=4)
    for job, cached in (("first", 0), ("second", 40)):
        one = loop.add(job, PROMPT, 1)
        loop.finish()
        assert one.usage.cached_tokens == cached
        assert loop.text_of(job) == greedy_text(PROMPT, 1, VOCAB)
    assert [tokens for _, tokens in loop.model.steps] == [40, 2, 2]


def test_the_state_where_prompts_part_is_kept_once_two_have_parted_there() -> None:
    loop = Loop(60, chunk=64, kept_states=8)
    cached: list[int] = []
    for question in range(3):
        one = loop.add(f"{question}", [*SYSTEM, *[30 + question] * 18], 2)
        loop.finish()
        cached.append(one.usage.cached_tokens)
        assert loop.text_of(f"{question}") == greedy_text(one.request.prompt_token_ids, 2, VOCAB)
    assert cached == [0, 0, 20]


def test_the_state_behind_an_answer_is_kept_for_the_next_turn() -> None:
    loop = Loop(60, chunk=64, kept_states=2)
    loop.add("first", [1, 2, 3], 40)
    loop.finish()
    assert loop.states is not None
    assert loop.states.kept == 1, "the newest of an answer stands in for the ones before it"
    turn = [1, 2, 3, *loop.text_of("first"), 9, 9, 9]
    second = loop.add("second", turn, 1)
    loop.finish()
    assert second.usage.cached_tokens == 32
    assert loop.text_of("second") == greedy_text(turn, 1, VOCAB)


def test_without_room_for_kept_states_everything_is_computed() -> None:
    loop = Loop(60, slots=1, chunk=64, kept_states=0)
    for job in ("first", "second"):
        one = loop.add(job, PROMPT, 1)
        loop.finish()
        assert one.usage.cached_tokens == 0


def test_siblings_wait_for_the_state_that_the_first_one_leaves() -> None:
    loop = Loop(100, slots=4, chunk=8, kept_states=4)
    for job in ("a", "b", "c"):
        loop.add(job, PROMPT, 3)
    loop.add("other", [45, 46], 3)
    while not loop.text_of("other"):
        loop.step()
    loop.finish()
    assert [loop.sequences[job].usage.cached_tokens for job in ("a", "b", "c")] == [0, 40, 40]
    for job in ("a", "b", "c"):
        assert loop.text_of(job) == greedy_text(PROMPT, 3, VOCAB)


def test_a_preempted_sequence_starts_again_from_a_kept_state() -> None:
    loop = Loop(24, slots=2, chunk=64, kept_states=4)
    loop.add("old", [1] * 20, 40)
    young = loop.add("young", [2] * 20, 40)
    loop.finish()
    assert set(loop.preempted) == {"young"}
    assert loop.text_of("young") == greedy_text([2] * 20, 40, VOCAB)
    assert young.usage.cached_tokens == 0


def _engine(model: StateModel, slots: int = 4) -> tuple[Engine, Transcript]:
    told = Transcript()
    options = EngineOptions(slots, 100, prefill_chunk_tokens=16, num_states=len(model.states))
    return Engine(model, WordTokenizer(), options, told), told


def _request(job: str, prompt: list[int]) -> SequenceRequest:
    return SequenceRequest(job, prompt, Sampling(seed=0, temperature=0.0, max_tokens=6))


def test_a_resumed_answer_goes_on_from_its_tokens() -> None:
    engine, told = _engine(StateModel(100, 6, vocab_size=VOCAB))
    right = greedy_text(PROMPT, 6, VOCAB)
    begun = SequenceRequest(
        "job", PROMPT, Sampling(seed=0, temperature=0.0, max_tokens=6),
        generated_token_ids=tuple(right[:4]),
    )  # fmt: skip
    told.start["job"] = 4
    serve(engine, begun)
    assert told.tokens["job"] == right[4:]


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError("no room")])
def test_states_that_a_failed_step_has_moved_are_computed_again(error: Exception) -> None:
    model = StateModel(100, 6, vocab_size=VOCAB)
    engine, told = _engine(model)
    forward, fails = model.forward, iter([False, False, True])

    def failing(batch):
        rows = forward(batch)
        if next(fails, False):
            raise error
        return rows

    model.forward = failing
    prompts = {"a": PROMPT, "b": [7, 8, 9], "c": [*PROMPT, 1]}
    serve(engine, *[_request(job, prompt) for job, prompt in prompts.items()])
    for job, prompt in prompts.items():
        assert isinstance(told.ends[job], Finished)
        assert told.tokens[job] == greedy_text(prompt, 6, VOCAB)


def test_a_sequence_that_breaks_its_step_fails_alone() -> None:
    def before(batch):
        if any(part.token_ids[0] == 13 for part in batch.slices):
            raise RuntimeError("broken")

    model = StateModel(100, 6, vocab_size=VOCAB, before_forward=before)
    engine, told = _engine(model)
    serve(engine, _request("good", PROMPT), _request("bad", [13, 1]), _request("fine", [3, 4]))
    assert isinstance(told.ends["bad"], Failed)
    assert told.tokens["good"] == greedy_text(PROMPT, 6, VOCAB)
    assert told.tokens["fine"] == greedy_text([3, 4], 6, VOCAB)


def test_options_that_cannot_be() -> None:
    with pytest.raises(BadSettings, match="num_states"):
        EngineOptions(4, 10, num_states=3)
    with pytest.raises(BadSettings, match="0 states for 4 slots"):
        Engine(StateModel(10, 4), WordTokenizer(), EngineOptions(4, 10), Transcript())
