"""Answers that were given before: found by their context, within a scope, as long as there is room."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.contract.job import Sampling
from penstock.engine.drafting.answer_index import (
    ANSWER_TOKENS,
    MOST_SCOPES,
    PROMPT_TOKENS,
    AnswerIndex,
)
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from tests.fixtures.engine import HashModel, Transcript, WordTokenizer, serve

VOCAB = 50
PROMPT = list(range(10, 20))
ANSWER = list(range(20, 40))


def index_of(most_tokens: int = 4096) -> AnswerIndex:
    index = AnswerIndex(VOCAB, most_tokens)
    index.keep("a", PROMPT, ANSWER)
    return index


def test_an_answer_is_found_from_its_first_token_on():
    index = index_of()
    assert index.draft("a", PROMPT, 6) == (ANSWER[:6], 10)
    assert index.draft("a", [1, *PROMPT, *ANSWER[:7]], 6) == (ANSWER[7:13], 17)
    assert index.draft("a", [*PROMPT, *ANSWER[:18]], 6) == (ANSWER[18:], 24)
    assert index.draft("a", [*PROMPT, *ANSWER], 6)[0] == []
    assert index.draft("a", PROMPT[-3:], 6) == ([], 0)


def test_the_longest_context_wins_then_the_newest():
    index = AnswerIndex(VOCAB)
    index.keep("a", [1, 2, 3, 4, 5, 6], [30] * 8)
    index.keep("a", [9, 9, 3, 4, 5, 6], [40] * 8)
    assert index.draft("a", [1, 2, 3, 4, 5, 6], 2) == ([30, 30], 6)
    assert index.draft("a", [7, 7, 3, 4, 5, 6], 2) == ([40, 40], 4)


def test_no_answer_leaves_its_scope():
    index = index_of()
    assert index.draft("b", PROMPT, 6) == ([], 0)
    assert index.scopes() == ["b"]
    index.keep("b", PROMPT, [7] * 8)
    assert index.draft("a", PROMPT, 3)[0] == ANSWER[:3]
    assert index.draft("b", PROMPT, 3)[0] == [7, 7, 7]


def test_what_is_known_is_not_sent_again():
    index = index_of()
    assert [scope for scope, _ in index.unread()] == ["a"]
    index.keep("a", PROMPT, ANSWER)
    index.keep("a", PROMPT, ANSWER[:7])  # too short to help
    assert index.unread() == []
    assert not index.add("a", (*PROMPT, *ANSWER))
    assert index.add("b", (*PROMPT, *ANSWER))
    assert index.unread() == []  # it came from elsewhere


def test_bounds():
    index = AnswerIndex(VOCAB)
    assert not index.add("a", [1, 2, 3, 4, VOCAB])
    assert not index.add("a", [1, 2, 3, 4, -1])
    assert not index.add("a", [1, 2, 3])
    assert not index.add("a", [1] * (PROMPT_TOKENS + ANSWER_TOKENS + 1))
    index.keep("a", [1] * 500, [2] * 5000)
    ((_, text),) = index.unread()
    assert len(text) == PROMPT_TOKENS + ANSWER_TOKENS


def test_scopes_in_use_are_bounded():
    index = AnswerIndex(VOCAB)
    for number in range(MOST_SCOPES + 1):
        index.draft(f"scope {number}", PROMPT, 1)
    assert len(index.scopes()) == MOST_SCOPES
    assert "scope 0" not in index.scopes()


def test_old_answers_are_overwritten():
    index = index_of(most_tokens=256)
    for number in range(8):
        index.keep("a", [number] * 10, [number] * 30)
    assert index.draft("a", PROMPT, 6) == ([], 0)
    assert index.add("a", (*PROMPT, *ANSWER))
    assert index.draft("a", PROMPT, 6)[0] == ANSWER[:6]
    for number in range(1000):
        index.keep("a", [number % VOCAB] * 10, [number % VOCAB, number % 7] * 20)
    assert len(vars(index)["_places"]) <= 2 * 256 + 64
    assert len(vars(index)["_known"]) < 10


@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=40), max_size=12), st.integers())
def test_a_draft_is_always_what_followed_somewhere(texts, seed):
    index = AnswerIndex(VOCAB, 300)
    for text in texts:
        index.keep("a", text[:1], text[1:])
    source = random.Random(seed)
    context = [source.randrange(4) for _ in range(12)]
    draft, matched = index.draft("a", context, 5)
    if matched:
        run = [*context[-min(matched, len(context)) :], *draft]
        assert any(run == text[at : at + len(run)] for text in texts for at in range(len(text)))


def test_a_second_run_takes_fewer_steps_for_the_same_texts():
    index = AnswerIndex(VOCAB)
    steps: list[int] = []
    texts: list[dict[str, list[int]]] = []
    for _ in range(6):  # measured times decide whether drafts pay: one run may be disturbed
        model, told = HashModel(200), Transcript()
        options = EngineOptions(4, 200, speculation_tokens=8)
        engine = Engine(model, WordTokenizer(()), options, told, answers=index)
        serve(
            engine,
            *(
                SequenceRequest(
                    str(job),
                    [job, *PROMPT],
                    Sampling(seed=0, temperature=1.0, max_tokens=40),
                    scope="a",
                )
                for job in range(4)
            ),
        )
        steps.append(len(model.steps))
        texts.append(dict(told.tokens))
        if steps[-1] < steps[0] / 2:
            break
    assert all(text == texts[0] for text in texts)
    assert steps[-1] < steps[0] / 2
