"""A second model drafts: the same text, fewer steps if it is right, few tries if it is not."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from penstock.contract.job import Sampling
from penstock.engine.drafting.draft_model import DraftModel
from penstock.engine.drafting.speculation import Speculation
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from tests.fixtures.engine import (
    HashModel,
    Transcript,
    WindowModel,
    WordTokenizer,
    greedy_text,
    serve,
)

if TYPE_CHECKING:
    from penstock.engine.model import Batch

VOCAB = 50
OPTIONS = EngineOptions(4, 200, speculation_tokens=6, prefix_caching=False)


class Wrong(HashModel):
    """Knows the same, but some of its tokens are off by one."""

    share = 0.3

    def forward(self, batch: Batch) -> torch.Tensor:
        logits = super().forward(batch)
        source = random.Random(len(self.steps))
        off = [source.random() < self.share for _ in range(len(logits))]
        return torch.where(torch.tensor(off)[:, None], logits.roll(1, dims=1), logits)


class AlwaysWrong(Wrong):
    share = 1.0


class Breaks(HashModel):
    def forward(self, batch: Batch) -> torch.Tensor:
        raise RuntimeError("it broke")


def requests(count: int = 4, **sampling: Any) -> list[SequenceRequest]:
    how = {"seed": 0, "temperature": 0.0, "max_tokens": 30} | sampling
    return [
        SequenceRequest(str(job), [job, *range(20 + job)], Sampling(**how)) for job in range(count)
    ]


def run(
    draft: HashModel | None, *asked: SequenceRequest, blocks: int = 200, vocab: int = VOCAB
) -> Any:
    # A step takes longer than a pass of the model that drafts, as it should.
    model = HashModel(200, vocab_size=vocab, before_forward=lambda _: time.sleep(0.01))
    told = Transcript()
    drafting = None if draft is None else DraftModel(draft, blocks, vocab)
    engine = Engine(model, WordTokenizer(()), OPTIONS, told, draft_model=drafting)
    serve(engine, *asked)
    if drafting is not None:
        assert drafting._tables.pools[0].available == blocks
        assert not drafting._texts
    return told, model, engine


@pytest.mark.parametrize("kind", [HashModel, Wrong, AlwaysWrong, Breaks])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_what_it_is_without(kind, temperature):
    asked = requests(temperature=temperature)
    plain, _, _ = run(None, *asked)
    told, _, _ = run(kind(200, vocab_size=VOCAB), *asked)
    assert dict(told.tokens) == dict(plain.tokens)


def test_right_drafts_save_steps():
    asked = requests(1)
    _, slow, _ = run(None, *asked)
    _, fast, engine = run(HashModel(200, vocab_size=VOCAB), *asked)
    assert len(fast.steps) < len(slow.steps) / 3
    load = engine.load()
    assert load.accepted_tokens_total == load.drafted_tokens_total > 20


def test_what_was_drafted_wrongly_is_read_again():
    draft = Wrong(200, vocab_size=VOCAB)
    told, _, engine = run(draft, *requests(4))
    for job in range(4):
        assert told.tokens[str(job)] == greedy_text([job, *range(20 + job)], 30, VOCAB)
    # Its cache has the texts' own tokens, so that most of its drafts are right.
    load = engine.load()
    assert load.accepted_tokens_total > load.drafted_tokens_total / 3


def test_a_model_that_is_never_right_is_seldom_asked():
    draft = AlwaysWrong(400, vocab_size=VOCAB, context_length=2000)
    model, told = HashModel(400, vocab_size=VOCAB, context_length=2000), Transcript()
    options = EngineOptions(1, 400, speculation_tokens=6)
    engine = Engine(
        model, WordTokenizer(()), options, told, draft_model=DraftModel(draft, 400, VOCAB)
    )
    serve(engine, *requests(1, max_tokens=600))
    # The first drafts show that; then one token is tried in 64 steps.
    assert len(draft.steps) < 120
    assert engine.load().drafted_tokens_total < 60


def test_a_cache_without_room_leaves_a_sequence_without_drafts():
    told, _, engine = run(HashModel(8, vocab_size=VOCAB), *requests(4), blocks=8)
    assert told.tokens["3"] == greedy_text([3, *range(23)], 30, VOCAB)
    assert engine.load().drafted_tokens_total < 30  # one of them at a time


@pytest.mark.parametrize("full_layers", [False, True])
def test_a_draft_models_layers_with_a_window_hold_no_more_than_it(full_layers: bool):
    """Its fixture checks that what is in a window is there, and nobody else's."""
    draft = WindowModel(400, 12, full_layers=full_layers, vocab_size=VOCAB)
    windows = 4 * 8  # of four texts, with what a step adds
    draft.allocate_windows(windows)
    drafting = DraftModel(draft, 400, VOCAB, windows)
    pool = drafting._tables.pools[-1]
    least: list[int] = []

    def before(_: Batch) -> None:
        least.append(pool.available)
        time.sleep(0.005)  # longer than a pass of the model that drafts

    model = HashModel(200, vocab_size=VOCAB, before_forward=before)
    told = Transcript()
    engine = Engine(model, WordTokenizer(()), OPTIONS, told, draft_model=drafting)
    serve(engine, *requests(4, max_tokens=90))
    for job in range(4):
        assert told.tokens[str(job)] == greedy_text([job, *range(20 + job)], 90, VOCAB)
    load = engine.load()
    assert load.accepted_tokens_total == load.drafted_tokens_total > 100
    assert not drafting._broken
    assert min(least) > 0
    assert pool.available == pool.num_blocks == windows


def test_tokens_that_one_model_lacks():
    small = HashModel(200, vocab_size=30)  # the prompts' tokens go on to 22, the answers' to 49
    told, _, _ = run(small, *requests(4))
    assert told.tokens["1"] == greedy_text([1, *range(21)], 30, VOCAB)
    large = HashModel(200, vocab_size=90)
    told, _, _ = run(large, *requests(4))
    assert told.tokens["1"] == greedy_text([1, *range(21)], 30, VOCAB)


def test_a_pass_has_to_pay():
    speculation = Speculation(6, None, DraftModel(HashModel(9), 9, VOCAB))
    speculation.observe(1, 0.01)
    assert (
        speculation._price(1, 0.0) < speculation._price(1, 0.002) < 1 < speculation._price(1, 0.02)
    )
