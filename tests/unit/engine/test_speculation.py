"""Guessed tokens change how fast a text comes, and nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contract.events import Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.drafting.prompt_lookup import PromptLookup
from penstock.engine.drafting.speculation import Speculation, _worthy
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.pacing.step_cost import StepCost
from penstock.engine.sampling.logits_edits import LogitsEdits
from penstock.engine.sequence import Limits, SequenceRequest
from penstock.engine.sequence import Sequence as EngineSequence
from penstock.engine.text.detokenizer import DecodeCache
from tests.fixtures.engine import HashModel, Transcript, WordTokenizer, serve
from tests.fixtures.speculation import ForcedDrafts
from tests.unit.engine.test_scheduler import arrivals

if TYPE_CHECKING:
    from penstock.contract.events import Event
    from penstock.engine.model import Batch

VOCAB = 50


class Ring(HashModel):
    """Says the numbers up to `around` over and over, as sure as a model can be."""

    around = 7

    def forward(self, batch: Batch) -> torch.Tensor:
        super().forward(batch)
        last = [token for part in batch.slices for token in part.token_ids[part.logits_from :]]
        logits = np.zeros((len(last), self.vocab_size), dtype=np.float32)
        logits[range(len(last)), [(token + 1) % self.around for token in last]] = 30
        return torch.from_numpy(logits)


def engine_of(
    model: HashModel,
    drafts: ForcedDrafts | None = None,
    *,
    slots: int = 4,
    tokens: int = 0,
    eos: tuple[int, ...] = (),
    **options: Any,
) -> tuple[Engine, Transcript]:
    told = Transcript()
    chosen = EngineOptions(slots, len(model.cache), speculation_tokens=tokens, **options)
    return Engine(model, WordTokenizer(eos), chosen, told, drafter=drafts), told


def told_of(events: list[Event]) -> dict[str, Any]:
    """What a client learns of each job, however it was cut into events."""
    jobs: dict[str, Any] = {}
    for event in events:
        text, tokens, logprobs, end = jobs.get(event.job_id, ("", (), (), None))
        if isinstance(event, Tokens):
            tokens += event.token_ids
        else:
            assert isinstance(event, Finished)
            end = (event.reason, event.stop, event.usage)
        jobs[event.job_id] = (text + event.text, tokens, logprobs + event.logprobs, end)
    return jobs


FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0},
    "filtered": {"temperature": 1.3, "top_p": 0.8, "top_k": 20, "min_p": 0.01},
    "penalties": {
        "temperature": 0.9,
        "repetition_penalty": 1.4,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.9,
    },
    "greedy penalties": {"temperature": 0.0, "repetition_penalty": 2.0, "frequency_penalty": 1.5},
    "bias": {"temperature": 1.0, "logit_bias": {3: 4.0, 9: -50.0}},
    "stop string": {"temperature": 1.0, "stop": ("1 2", " 41 3")},
    "min_tokens": {"temperature": 1.0, "min_tokens": 9, "stop_token_ids": (1, 2, 3, 4, 5)},
    "logprobs": {"temperature": 1.0, "logprobs": 3, "frequency_penalty": 0.5},
    "eos": {"temperature": 2.0},
}


def requests_of(features: dict[str, Any], generated: tuple[int, ...] = ()) -> list[SequenceRequest]:
    return [
        SequenceRequest(
            f"{seed}",
            [1, 2, 3, 4, 5, seed],
            Sampling(**{"seed": seed, "max_tokens": 24, **features}),
            echo_text="echo",
            generated_token_ids=generated,
        )
        for seed in range(6)
    ]


@pytest.mark.parametrize("name", FEATURES)
def test_the_answer_is_the_same_with_right_and_wrong_drafts(name: str):
    eos = (7, 8) if name == "eos" else ()
    plain, told = engine_of(HashModel(80), eos=eos)
    serve(plain, *requests_of(FEATURES[name]))
    drafts = ForcedDrafts(told.tokens, random.Random(name), vocab_size=VOCAB)
    engine, drafted = engine_of(HashModel(80), drafts, eos=eos)
    serve(engine, *requests_of(FEATURES[name]))
    assert told_of(drafted.events) == told_of(told.events)
    assert drafts.tried > 30
    assert max(drafts.said) > 1
    assert min(drafts.said) == 1
    assert engine.load().kv_use == 0
    assert engine.load().accepted_tokens_total > 5


@pytest.mark.parametrize("done", [1, 5, 11])
def test_a_continued_answer_goes_on_the_same(done: int):
    features = {"temperature": 1.0, "frequency_penalty": 0.5, "stop": ("1 2 3",)}
    plain, told = engine_of(HashModel(80))
    serve(plain, requests_of(features)[0])
    whole = told.tokens["0"]
    drafts = ForcedDrafts({"0": whole}, random.Random(done), vocab_size=VOCAB)
    engine, drafted = engine_of(HashModel(80), drafts)
    drafted.start["0"] = done
    serve(engine, requests_of(features, tuple(whole[:done]))[0])
    assert whole[:done] + drafted.tokens["0"] == whole
    assert drafted.finished("0").reason == told.finished("0").reason


@settings(max_examples=100, deadline=None)
@given(
    arrivals,
    st.integers(9, 20),  # blocks of 4: the longest sequence, 34 tokens, fits into 9
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
    st.floats(0, 2),
    st.integers(0, 99),
)
def test_every_request_gets_the_same_text(  # noqa: PLR0917 - hypothesis fills them in
    coming, blocks, slots, chunk, caching, temperature, seed
):
    """Arrivals, aborts, preemptions, shared prefixes: rejected tokens leave nothing behind."""
    requests = {
        f"{number}": SequenceRequest(
            f"{number}",
            one.prompt,
            Sampling(seed=number, temperature=temperature, max_tokens=one.count),
            priority=one.priority,
        )
        for number, one in enumerate(coming)
    }
    answers: dict[str, list[int]] = {}
    for job, request in requests.items():
        alone, told = engine_of(HashModel(20, vocab_size=VOCAB))
        serve(alone, request)
        answers[job] = told.tokens[job]
    options: dict[str, Any] = {"prefill_chunk_tokens": chunk, "prefix_caching": caching}
    drafts = ForcedDrafts(answers, random.Random(seed), vocab_size=VOCAB)
    engine, told = engine_of(HashModel(blocks, vocab_size=VOCAB), drafts, slots=slots, **options)
    turn, more = 0, False
    while more or turn <= 30:
        for number, one in enumerate(coming):
            if one.turn == turn:
                engine.submit(requests[f"{number}"])
            if one.abort_after is not None and one.turn + one.abort_after == turn:
                engine.abort([f"{number}"])
        more = engine.turn()
        turn += 1
        assert turn < 2_000, "somebody never ends"
    for number, one in enumerate(coming):
        got = told.tokens.get(f"{number}", [])
        if one.abort_after is None:
            assert got == answers[f"{number}"]
        assert got == answers[f"{number}"][: len(got)]
    assert engine.load().kv_use == 0


def test_a_text_that_repeats_itself_takes_fewer_steps(monkeypatch):
    # Whatever the steps of this machine take: a row is a sixteenth of a step.
    monkeypatch.setattr(Speculation, "observe", lambda self, rows, step_s: None)
    model = Ring(40, vocab_size=VOCAB)
    engine, told = engine_of(model, tokens=8)
    request = SequenceRequest("job", [0, 1, 2], Sampling(seed=0, temperature=1.0, max_tokens=60))
    serve(engine, request)
    assert told.tokens["job"] == [(3 + n) % 7 for n in range(60)]
    load = engine.load()
    assert len(model.steps) < 30
    assert load.generated_tokens_total == 60
    assert load.drafts_total > 5
    assert load.accepted_tokens_total <= load.drafted_tokens_total
    assert 60 - len(model.steps) - 1 <= load.accepted_tokens_total < 60


def test_logits_that_are_no_numbers_fail_after_what_was_right():
    model = HashModel(40)
    drafts = ForcedDrafts({"job": []}, random.Random(1), vocab_size=VOCAB)
    engine, told = engine_of(model, drafts)
    engine.submit(SequenceRequest("job", [1, 2], Sampling(seed=0, temperature=0.0, max_tokens=30)))
    for _ in range(4):
        engine.turn()
    model.poisoned.add(1)  # the key of the first sequence
    serve(engine)
    assert "not numbers" in told.failed("job").message
    assert told.ends["job"].index == len(told.tokens["job"]) > 0
    assert engine.load().kv_use == 0


def test_lookup_finds_what_followed_the_last_time():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, 5, 6, 9, 2, 3, 4]
    assert lookup.draft(text, 3) == [5, 6, 9]
    text += [7, 2, 3, 4]
    assert lookup.draft(text, 2) == [7, 2]  # the latest time, not the first
    assert lookup.draft([*text, 8], 4) == []
    assert lookup.draft([*text, 8], 0) == []
    assert PromptLookup().draft([1, 2], 3) == []
    assert PromptLookup().draft([5, 5, 5, 5], 6) == [5] * 6
    assert PromptLookup().draft([1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_lookup_reads_only_the_end_of_a_long_text():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, *range(10, 40_000), 1, 2, 3]
    assert lookup.draft(text, 1) == []
    assert len(lookup._ends) <= 32_768


def test_the_cost_of_a_row_is_learnt():
    cost = StepCost(0.98)
    assert cost.read() is None
    cost.observe(1, 0.017)
    step_s, row_s = cost.read() or (0.0, 0.0)
    assert row_s == pytest.approx(0.001)  # nothing but the prior
    assert step_s == pytest.approx(0.016)
    for rows in (1, 4, 8, 2, 6, 8, 1, 5) * 5:
        cost.observe(rows, 0.02 + rows * 0.005)
    step_s, row_s = cost.read() or (0.0, 0.0)
    assert row_s == pytest.approx(0.005, rel=0.15)
    assert step_s == pytest.approx(0.02, rel=0.2)


def test_a_guess_is_as_long_as_it_pays():
    assert _worthy(0.9, 0.1, 8) == 8
    assert _worthy(0.5, 0.1, 8) == 3
    assert _worthy(0.09, 0.1, 8) == 0


def decoding(token_ids: list[int]) -> EngineSequence:
    request = SequenceRequest("job", token_ids, Sampling(seed=0, temperature=0.0, max_tokens=200))
    limits = Limits(256, VOCAB, frozenset())
    return EngineSequence(request, 1, limits, DecodeCache(WordTokenizer()))


def test_wrong_guesses_stop_and_right_ones_that_were_not_tried_start_it_again():
    sequence = decoding([1, 2, 3, 1, 2, 3])
    speculation = Speculation(4)
    assert speculation.plan([sequence])
    rounds = 0
    while speculation.plan([sequence]):
        speculation.learn(sequence, [40])
        rounds += 1
        assert rounds < 40
    for _ in range(10):  # nothing is tried, and what comes is what would have been
        speculation.plan([sequence])
        speculation.learn(sequence, [1])
    assert speculation.plan([sequence]) == {sequence.key: [1, 2, 3, 1]}
    speculation.forget(sequence.key)
    assert not speculation._drafts


def test_nothing_is_tried_where_rows_are_what_costs():
    sequence = decoding([1, 2, 3, 1, 2, 3])
    speculation = Speculation(4)
    for rows in (1, 8, 16, 4) * 10:
        speculation.observe(rows, rows * 0.01)
    assert speculation.plan([sequence]) == {}
    assert Speculation(0).plan([sequence]) == {}


class Resting:
    """A model that drafts nothing, and notes whether it rests."""

    kind = "mtp"
    pass_s = 0.0
    resting = False

    def draft(self, sequences: list[EngineSequence], count: int) -> dict[int, list[int]]:
        return {}

    def rest(self, *, resting: bool) -> None:
        self.resting = resting

    def forget(self, key: int) -> None:
        pass


def test_a_model_that_drafts_rests_while_it_would_not_pay():
    sequence, model = decoding(list(range(40))), Resting()
    speculation = Speculation(4, None, model)
    for rows in (1, 8, 16, 4) * 10:
        speculation.observe(rows, rows * 0.01)
    for _ in range(310):
        speculation.plan([sequence])
    assert model.resting
    for rows in (1, 8, 16, 4) * 100:
        speculation.observe(rows, 0.05)
    for _ in range(10):
        speculation.plan([sequence])
    assert not model.resting


def test_no_draft_passes_the_end_of_the_answer():
    sequence = decoding([1, 2, 3, 1, 2, 3])
    speculation = Speculation(8)
    for room, length in ((1, 0), (2, 1), (4, 3)):
        sequence.max_length = len(sequence.token_ids) + room
        assert len(speculation.plan([sequence]).get(sequence.key, [])) == length


def test_penalties_ahead_are_those_of_the_tokens_having_come():
    sampling = Sampling(seed=0, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.2)
    ahead, there = LogitsEdits(sampling, [1, 2], []), LogitsEdits(sampling, [1, 2], [])
    for token_id in (2, 3, 3):
        there.add(token_id)
    ahead.add(2)
    row = torch.linspace(-1, 1, 8)
    expected, got, before, after = (row.clone() for _ in range(4))
    ahead.apply(before, 1)
    there.apply(expected, 3)
    ahead.apply(got, 3, (3, 3))
    ahead.apply(after, 1)
    assert torch.equal(got, expected)
    assert torch.equal(after, before)
