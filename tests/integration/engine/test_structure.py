"""Structured answers of a real engine over a random model: only the constraint can shape them."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from penstock.contract.events import Failed, Finished, FinishReason
from penstock.contract.job import ChatPrompt, Sampling
from penstock.contract.structure import (
    ChoiceStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
)
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.errors import EngineFailed, UnsupportedFeature
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from penstock.models.text.dialect import Reasoning
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.jobs import wait_until
from tests.fixtures.speculation import ForcedDrafts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.models.loader import LoadedModel

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "tags", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> LoadedModel:
    settings = Settings(models_dir=tiny_llama.parent, threads=1, kv_cache_bytes=2**22)
    return loader.load(
        resolve("tiny-llama-cpu", settings), settings, slots=8, progress=lambda *_: None
    )


@pytest.fixture
def transcript() -> Transcript:
    return Transcript()


@pytest.fixture
def engine(loaded: LoadedModel, transcript: Transcript) -> Iterator[Engine]:
    blocks = loaded.card.kv_cache_tokens // loaded.model.kv_layout.block_size
    engine = Engine(loaded.model, loaded.tokenizer, EngineOptions(8, blocks), transcript)
    engine.start()
    yield engine
    engine.stop()


def request(loaded: LoadedModel, job: str, sampling: Sampling, generated=()) -> SequenceRequest:
    prompt = ChatPrompt(messages=({"role": "user", "content": f"Answer {job}"},))
    constraint = None
    if sampling.structure is not None:
        constraint = loaded.tokenizer.constrain(sampling.structure, Reasoning.NONE)
    return SequenceRequest(
        job,
        loaded.tokenizer.encode(prompt),
        sampling,
        generated_token_ids=generated,
        joins_prompt=False,
        constraint=constraint,
    )


def run(engine: Engine, transcript: Transcript, *requests: SequenceRequest) -> None:
    for one in requests:
        engine.submit(one)
    wait_until(lambda: all(one.job_id in transcript.ends for one in requests), 60)


def is_person(text: str) -> bool:
    value = json.loads(text)
    assert list(value) == ["name", "age", "tags", "ok"]
    return (
        len(value["name"]) <= 12
        and 0 <= value["age"] <= 130
        and set(value["tags"]) <= {"red", "green"}
        and len(value["tags"]) <= 3
        and isinstance(value["ok"], bool)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_a_random_model_obeys_a_schema(engine, loaded, transcript, temperature) -> None:
    samplings = [
        Sampling(seed=seed, temperature=temperature, structure=JsonStructure(SCHEMA))
        for seed in range(6)
    ]
    run(engine, transcript, *(request(loaded, f"j{s.seed}", s) for s in samplings))
    for job, end in transcript.ends.items():
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.STOP
        assert is_person(transcript.text[job])
    if temperature:
        assert len(set(transcript.text.values())) > 1


@pytest.mark.parametrize(
    "changes",
    [
        {"top_p": 0.5, "top_k": 3, "min_p": 0.2},
        {"ignore_eos": True},
        {"min_tokens": 60},
        {"repetition_penalty": 1.5, "presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"logit_bias": dict.fromkeys(range(60, 70), 100.0)},
        {"stop_token_ids": (0, 2), "logprobs": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_other_parameter_breaks_the_form(engine, loaded, transcript, changes) -> None:
    sampling = Sampling(seed=5, structure=JsonStructure(SCHEMA), **changes)
    run(engine, transcript, request(loaded, "j", sampling))
    assert isinstance(transcript.ends["j"], Finished)
    assert transcript.ends["j"].reason is FinishReason.STOP
    assert is_person(transcript.text["j"])


def test_another_worker_goes_on_exactly(engine, loaded, transcript) -> None:
    sampling = Sampling(seed=11, temperature=1.0, structure=JsonStructure(SCHEMA))
    run(engine, transcript, request(loaded, "whole", sampling))
    tokens = transcript.tokens["whole"]
    for cut in (1, len(tokens) // 2, len(tokens) - 1, len(tokens)):
        job = f"cut{cut}"
        transcript.start[job] = cut
        # The same prompt text: a name is part of it.
        one = request(loaded, "whole", sampling, generated=tokens[:cut])
        run(engine, transcript, SequenceRequest(
            job, one.prompt_token_ids, one.sampling, one.generated_token_ids,
            joins_prompt=False, constraint=one.constraint,
        ))  # fmt: skip
        assert tokens[:cut] + transcript.tokens.get(job, []) == tokens
        assert transcript.ends[job].reason is FinishReason.STOP


def test_neighbours_without_a_form_get_what_they_get_alone(engine, loaded, transcript) -> None:
    plain = [Sampling(seed=seed, max_tokens=24) for seed in range(3)]
    run(engine, transcript, *(request(loaded, f"p{s.seed}", s) for s in plain))
    alone = dict(transcript.tokens)
    transcript.ends.clear()
    transcript.tokens.clear()
    form = Sampling(seed=1, structure=JsonStructure(SCHEMA))
    run(
        engine,
        transcript,
        request(loaded, "f", form),
        *(request(loaded, f"p{s.seed}", s) for s in plain),
    )
    assert {job: transcript.tokens[job] for job in alone} == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guessed_tokens_do_not_change_the_form(engine, loaded, transcript, temperature) -> None:
    samplings = [
        Sampling(seed=seed, temperature=temperature, structure=JsonStructure(SCHEMA))
        for seed in range(4)
    ]
    run(engine, transcript, *(request(loaded, f"j{s.seed}", s) for s in samplings))
    told = Transcript()
    blocks = loaded.card.kv_cache_tokens // loaded.model.kv_layout.block_size
    rng, vocab_size = random.Random(temperature), loaded.model.vocab_size
    drafts = ForcedDrafts(transcript.tokens, rng, vocab_size=vocab_size)
    guessing = Engine(
        loaded.model, loaded.tokenizer, EngineOptions(8, blocks), told, drafter=drafts
    )
    guessing.start()
    try:
        run(guessing, told, *(request(loaded, f"j{s.seed}", s) for s in samplings))
    finally:
        guessing.stop()
    assert told.text == transcript.text
    assert told.tokens == transcript.tokens
    assert guessing.load().accepted_tokens_total > 0


def test_max_tokens_within_the_form_is_length(engine, loaded, transcript) -> None:
    sampling = Sampling(seed=1, max_tokens=6, structure=JsonStructure(SCHEMA))
    run(engine, transcript, request(loaded, "j", sampling))
    assert transcript.ends["j"].reason is FinishReason.LENGTH
    assert transcript.ends["j"].usage.completion_tokens == 6
    with pytest.raises(json.JSONDecodeError):
        json.loads(transcript.text["j"])


def test_a_form_that_is_complete_with_the_last_token_is_stop(engine, loaded, transcript) -> None:
    sampling = Sampling(seed=1, structure=ChoiceStructure(("Berlin",)))
    run(engine, transcript, request(loaded, "j", sampling))
    count = len(transcript.tokens["j"])
    exact = msgspec.structs.replace(sampling, max_tokens=count)
    run(engine, transcript, request(loaded, "k", exact))
    assert transcript.text["k"] == "Berlin"
    assert transcript.ends["k"].reason is FinishReason.STOP


def test_stop_strings_cut_a_form_short(engine, loaded, transcript) -> None:
    sampling = Sampling(seed=1, stop=('"age"',), structure=JsonStructure(SCHEMA))
    run(engine, transcript, request(loaded, "j", sampling))
    assert transcript.ends["j"].stop == '"age"'
    assert re.fullmatch(r'\s*\{\s*"name"\s*:\s*".*"\s*,\s*', transcript.text["j"], re.DOTALL)


def test_a_regular_expression_that_may_go_on_ends_by_eos(engine, loaded, transcript) -> None:
    sampling = Sampling(seed=3, temperature=1.5, structure=RegexStructure("[ab]{2,400}"))
    run(engine, transcript, request(loaded, "j", sampling))
    end = transcript.ends["j"]
    assert re.fullmatch("[ab]{2,400}", transcript.text["j"])
    assert end.reason is FinishReason.STOP


class Broken:
    """A constraint that cannot go on after so many tokens."""

    complete = False

    def __init__(self, tokens: int, where: str) -> None:
        self.left, self.where = tokens, where

    def mask(self, ahead=()) -> bytes:
        if self.where == "mask" and not self.left:
            raise UnsupportedFeature("too complex")
        return b"\xff" * 64

    def advance(self, token_id: int) -> None:
        self.left -= 1
        if self.where == "advance" and not self.left:
            raise EngineFailed("does not fit")


@pytest.mark.parametrize(("where", "message"), [("mask", "too complex"), ("advance", "not fit")])
def test_a_constraint_that_gives_up_fails_its_own_sequence_only(
    engine, loaded, transcript, where, message
) -> None:
    prompt = loaded.tokenizer.encode(ChatPrompt(messages=({"role": "user", "content": "x"},)))
    sampling = Sampling(seed=1, max_tokens=9, ignore_eos=True, temperature=2.0)
    run(
        engine,
        transcript,
        SequenceRequest("bad", prompt, sampling, constraint=Broken(3, where)),
        SequenceRequest("good", prompt, sampling),
    )
    assert isinstance(transcript.ends["bad"], Failed)
    assert message in transcript.ends["bad"].message
    assert len(transcript.tokens["bad"]) == 3
    assert isinstance(transcript.ends["good"], Finished)
    assert len(transcript.tokens["good"]) == 9


def test_a_grammar_that_outgrows_its_limit_is_the_clients_fault(engine, loaded, transcript) -> None:
    doubling = "start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(40))
    sampling = Sampling(seed=1, structure=GrammarStructure(doubling + 'r40: "a"\n'))
    run(engine, transcript, request(loaded, "j", sampling))
    end = transcript.ends["j"]
    assert (end.code, end.param) == ("unsupported_feature", "structure")
    assert "the grammar is too complex" in end.message


def test_600_optional_properties_are_decoded(engine, loaded, transcript) -> None:
    names = {f"property_{index}": {"type": "boolean"} for index in range(600)}
    schema = {"type": "object", "properties": names}
    sampling = Sampling(seed=2, max_tokens=60, structure=JsonStructure(schema))
    run(engine, transcript, request(loaded, "j", sampling))
    assert isinstance(transcript.ends["j"], Finished)
    assert transcript.text["j"].lstrip().startswith("{")
