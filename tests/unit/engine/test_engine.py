"""Requests in, events out: what ends a text, what is told, what happens when something breaks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.contract.events import Failed, Finished, FinishReason
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ContextOverflow, EngineFailed, InvalidParameter
from tests.fixtures.engine import HashModel, Transcript, WordTokenizer, greedy_text, serve

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent

VOCAB = 50
PROMPT = [1, 2, 3]
TEXT = greedy_text(PROMPT, 40, VOCAB)
OPTIONS = EngineOptions(4, 40, prefill_chunk_tokens=16)


def request(job: str = "job", prompt: Any = PROMPT, **kwargs: Any) -> SequenceRequest:
    own = {
        key: kwargs.pop(key)
        for key in ("generated_token_ids", "echo_text", "priority")
        if key in kwargs
    }
    sampling = Sampling(**{"seed": 0, "temperature": 0.0, "max_tokens": 10, **kwargs})
    return SequenceRequest(job, prompt, sampling, **own)


def setup(
    eos: tuple[int, ...] = (),
    *,
    blocks: int = 40,
    slots: int = 4,
    chunk: int = 16,
    speculation_tokens: int = 0,
    **model: Any,
) -> tuple[Engine, HashModel, Transcript]:
    fake, told = HashModel(blocks, vocab_size=VOCAB, **model), Transcript()
    options = EngineOptions(
        slots, blocks, prefill_chunk_tokens=chunk, speculation_tokens=speculation_tokens
    )
    return Engine(fake, WordTokenizer(eos), options, told), fake, told


def answer(one: SequenceRequest, eos: tuple[int, ...] = ()) -> tuple[Transcript, Finished]:
    engine, _, told = setup(eos)
    told.start[one.job_id] = len(one.generated_token_ids)
    serve(engine, one)
    end = told.ends[one.job_id]
    assert isinstance(end, Finished)
    assert engine.load().kv_use == 0
    return told, end


def words(tokens: list[int]) -> str:
    return "".join(f" {token}" for token in tokens)


def test_length():
    told, end = answer(request(max_tokens=5))
    assert told.tokens["job"] == TEXT[:5]
    assert told.text["job"] == words(TEXT[:5])
    assert (end.reason, end.stop, end.index) == (FinishReason.LENGTH, None, 5)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 5)


def test_without_max_tokens_the_context_is_the_limit():
    engine, _, told = setup(context_length=20)
    serve(engine, request(max_tokens=None))
    assert told.finished("job").usage.completion_tokens == 17


def test_without_max_tokens_the_cache_is_the_limit_too():
    engine, _, told = setup(blocks=3)
    serve(engine, request(max_tokens=None))
    assert told.finished("job").usage.completion_tokens == 9


def test_eos_counts_as_a_token_without_text():
    told, end = answer(request(), eos=(TEXT[4],))
    first = TEXT.index(TEXT[4])
    assert told.tokens["job"] == TEXT[: first + 1]
    assert told.text["job"] == words(TEXT[:first])
    assert (end.reason, end.stop) == (FinishReason.STOP, None)
    assert end.usage.completion_tokens == first + 1


def test_ignore_eos():
    _, end = answer(request(ignore_eos=True), eos=(TEXT[4],))
    assert (end.reason, end.index) == (FinishReason.LENGTH, 10)


def test_stop_token_id_is_returned_as_the_stop():
    told, end = answer(request(stop_token_ids=(TEXT[3],)))
    assert (end.reason, end.stop) == (FinishReason.STOP, TEXT[3])
    assert told.text["job"] == words(TEXT[: TEXT.index(TEXT[3])])


def test_a_stop_string_that_is_a_token_is_returned_as_requested():
    asked = dataclasses.replace(request(), stop_tokens={TEXT[3]: "<|end|>"})
    told, end = answer(asked)
    assert (end.reason, end.stop) == (FinishReason.STOP, "<|end|>")
    assert told.text["job"] == words(TEXT[: TEXT.index(TEXT[3])])


def test_stop_string_over_token_borders_is_cut_off():
    stop = words(TEXT[2:4])[1:-1]  # from within one token to within another
    told, end = answer(request(stop=("never", stop)))
    assert (end.reason, end.stop) == (FinishReason.STOP, stop)
    assert told.text["job"] == words(TEXT[:10]).split(stop)[0]
    assert told.tokens["job"] == TEXT[:4]


def test_a_stop_string_that_does_not_come_is_emitted_at_the_end():
    stop = words(TEXT[9:10]) + " and more"
    told, end = answer(request(stop=(stop,)))
    assert told.text["job"] == words(TEXT[:10])
    assert end.text == words(TEXT[9:10])


def test_min_tokens_keeps_ends_away():
    told, end = answer(request(min_tokens=6, stop_token_ids=(TEXT[0],)), eos=(TEXT[1],))
    assert len(told.tokens["job"]) >= 7 or end.reason is FinishReason.LENGTH
    assert not {TEXT[0], TEXT[1]} & set(told.tokens["job"][:6])
    early = answer(request(min_tokens=4, stop=(words(TEXT[:2]),)))[0]
    assert early.tokens["job"] == TEXT[:10]


def test_stop_strings_count_from_the_token_after_min_tokens():
    second, third = (f" {token}" for token in TEXT[1:3])
    assert answer(request(min_tokens=1, stop=(second,)))[1].index == 2
    assert answer(request(min_tokens=2, stop=(second,)))[1].index != 2
    assert answer(request(min_tokens=2, stop=(third,)))[1].index == 3


def test_echo_comes_before_the_first_text():
    told, _ = answer(request(echo_text="the prompt:", max_tokens=2))
    assert told.pieces["job"][0] == "the prompt:" + words(TEXT[:1])
    told, end = answer(request(echo_text="the prompt", max_tokens=0))
    assert (end.text, end.index, end.reason) == ("the prompt", 0, FinishReason.LENGTH)
    assert told.tokens["job"] == []


def test_logprobs_come_with_their_tokens():
    told, _ = answer(request(max_tokens=3, logprobs=2))
    for event, token in zip(told.events, TEXT[:3], strict=False):
        assert not isinstance(event, Failed)
        (position,) = event.logprobs
        assert position.chosen.token_id == token == position.top[0].token_id
        assert len(position.top) == 2


@pytest.mark.parametrize(("temperature", "stop"), [(0.0, "4 "), (1.5, "4 4"), (1.5, "9")])
def test_a_resumed_answer_is_the_same_from_any_token_on(temperature: float, stop: str):
    settings = {
        "max_tokens": 12,
        "temperature": temperature,
        "seed": 11,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "stop": (stop,),
    }
    whole, end = answer(request(**settings), eos=(7,))
    tokens, pieces = whole.tokens["job"], whole.pieces["job"]
    assert len(tokens) > 2
    for done in range(1, len(tokens) + 1):
        resumed, end_again = answer(
            request(generated_token_ids=tokens[:done], echo_text="no", **settings), eos=(7,)
        )
        assert resumed.tokens["job"] == tokens[done:]
        assert resumed.pieces.get("job", []) == pieces[done:]
        assert (end_again.text, end_again.reason, end_again.stop, end_again.index) == (
            end.text,
            end.reason,
            end.stop,
            end.index,
        )


def test_sampled_text_does_not_depend_on_company_or_chunks():
    one = request("one", seed=5, temperature=1.0, top_p=0.9, max_tokens=20)
    alone, _ = answer(one)
    engine, _, told = setup(chunk=2, slots=3)
    others = [request(f"o{n}", [n, n, 4], seed=n, temperature=2.0) for n in range(6)]
    serve(engine, *others[:3], one, *others[3:])
    assert told.tokens["one"] == alone.tokens["one"]


def refused(one: SequenceRequest, **model: Any) -> str:
    engine, fake, told = setup(**model)
    serve(engine, one)
    end = told.ends[one.job_id]
    assert isinstance(end, Failed)
    assert not fake.steps
    assert not engine.busy()
    return end.code


def test_what_cannot_be_served_is_refused():
    assert refused(request(prompt=[1] * 20), context_length=20) == ContextOverflow.code
    assert refused(request(max_tokens=30), context_length=20) == ContextOverflow.code
    assert refused(request(max_tokens=30), blocks=8) == ContextOverflow.code
    assert refused(request(prompt=[])) == InvalidParameter.code
    assert refused(request(prompt=[VOCAB])) == InvalidParameter.code
    assert refused(request(prompt=[-1])) == InvalidParameter.code
    assert refused(request(logit_bias={VOCAB: 1.0})) == InvalidParameter.code
    assert refused(request(stop_token_ids=(VOCAB,))) == InvalidParameter.code


def test_abort_frees_the_slot_within_a_step_and_emits_nothing():
    engine, fake, told = setup(slots=1)
    engine.submit(request("a", max_tokens=30), request("b", max_tokens=2))
    engine.turn()
    before = len(told.events)
    engine.abort({"a", "unknown"})
    engine.turn()
    assert [event.job_id for event in told.events[before:]] == ["b"]
    assert fake.released == [1]
    engine.abort({"b"})
    engine.turn()
    assert told.ends == {}
    assert not engine.busy()


def test_a_job_that_comes_again_takes_its_own_place():
    engine, _, told = setup()
    engine.submit(request(max_tokens=30))
    engine.turn()
    engine.turn()
    have = told.tokens.pop("job")
    told.start["job"] = len(have)
    serve(engine, request(max_tokens=8, generated_token_ids=have))
    assert have + told.tokens["job"] == TEXT[:8]
    assert engine.load().kv_use == 0


class Breaks:
    """Raises at some forwards."""

    def __init__(self, error: Exception, *calls: int) -> None:
        self.error, self.calls, self.count = error, calls, 0

    def __call__(self, batch: object) -> None:
        self.count += 1
        if self.count in self.calls:
            raise self.error


def test_a_failed_step_is_repeated_for_each_sequence_alone():
    engine, _, told = setup(slots=2, before_forward=Breaks(RuntimeError("boom"), 2))
    serve(engine, *(request(f"{n}", [n] * 9, max_tokens=3) for n in range(4)))
    assert told.tokens == {f"{n}": greedy_text([n] * 9, 3, VOCAB) for n in range(4)}
    assert all(isinstance(end, Finished) for end in told.ends.values())
    assert engine.load().kv_use == 0


class Chokes:
    """Raises at every batch that has one sequence's prompt or what follows it."""

    def __init__(self, key: int) -> None:
        self.key = key

    def __call__(self, batch: Any) -> None:
        if any(part.key == self.key for part in batch.slices):
            raise RuntimeError("boom")


@pytest.mark.parametrize("drafted", [False, True])
def test_a_sequence_that_breaks_its_step_fails_alone(drafted: bool):
    engine, _, told = setup(
        slots=4, speculation_tokens=4 if drafted else 0, before_forward=Chokes(2)
    )
    serve(engine, *(request(f"{n}", [n] * 9, max_tokens=12) for n in range(4)))
    assert told.failed("1").code == EngineFailed.code
    assert told.failed("1").message == "RuntimeError: boom"
    for n in (0, 2, 3):
        assert told.tokens[f"{n}"] == greedy_text([n] * 9, 12, VOCAB)
    assert engine.load().kv_use == 0


def test_where_every_sequence_fails_none_of_them_is_to_blame():
    engine, _, told = setup(slots=3, before_forward=Breaks(RuntimeError("boom"), *range(2, 9)))
    with pytest.raises(EngineFailed, match="each of its sequences"):
        serve(engine, *(request(f"{n}", max_tokens=9) for n in range(3)))
    assert told.ends == {}


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: unspecified launch failure"),
        torch.AcceleratorError("gone"),
        RuntimeError("UR backend failed. UR backend returns:20 (UR_RESULT_ERROR_DEVICE_LOST)"),
    ],
)
def test_no_answer_ends_with_a_device_or_the_last_of_the_memory(error: Exception, sequences: int):
    engine, _, told = setup(before_forward=Breaks(error, *range(2, 40)))
    with pytest.raises(EngineFailed):
        serve(engine, *(request(f"{n}", max_tokens=9) for n in range(sequences)))
    assert told.ends == {}, "they go on at another worker"


def test_failures_in_a_row_stop_the_engine():
    engine, _, _ = setup(slots=1, before_forward=Breaks(RuntimeError("boom"), 1, 2, 3))
    with pytest.raises(EngineFailed):
        serve(engine, *(request(f"{n}") for n in range(4)))


def test_a_sequence_with_bad_logits_fails_alone():
    engine, fake, told = setup()
    fake.poisoned.add(2)
    serve(engine, *(request(f"{n}", max_tokens=3) for n in (1, 2, 3)))
    assert isinstance(told.ends["2"], Failed)
    assert told.tokens["1"] == told.tokens["3"] == TEXT[:3]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_out_of_memory_goes_on_with_less(error: Exception):
    sizes = []

    def tight(batch: Any) -> None:
        size = sum(len(part.token_ids) for part in batch.slices)
        if size > 5:
            raise error
        sizes.append(size)

    engine, _, told = setup(slots=8, chunk=16, before_forward=tight)
    serve(engine, *(request(f"{n}", [n] * 9, max_tokens=4) for n in range(8)))
    for n in range(8):
        assert told.tokens[f"{n}"] == greedy_text([n] * 9, 4, VOCAB)
    assert max(sizes) > 1


def test_an_attempt_takes_the_place_of_the_same_one_and_not_of_another_of_its_job():
    first = dataclasses.replace(request(max_tokens=30), attempt_id="job:1")
    second = dataclasses.replace(first, attempt_id="job:2")
    emitted: list[AttemptEvent] = []
    engine = Engine(HashModel(40, vocab_size=VOCAB), WordTokenizer(), OPTIONS, emitted.extend)
    engine.submit(first, second)
    engine.turn()
    assert engine.load().running == 2
    engine.submit(first)
    engine.turn()
    assert engine.load().running == 2
    engine.abort({"job"})
    engine.turn()
    assert engine.load().running == 2, "a job's id is no attempt's"
    engine.abort({"job:1", "job:2"})
    engine.turn()
    assert not engine.busy()
    assert {one.attempt_id for one in emitted} == {"job:1", "job:2"}
    assert {one.event.job_id for one in emitted} == {"job"}
