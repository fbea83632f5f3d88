"""The engine over OpenVINO: the same greedy text as Transformers', however it is batched."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.contract.events import Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.models.backends.openvino import load
from penstock.models.spec import ModelSpec
from tests.fixtures.engine import Transcript, WordTokenizer
from tests.fixtures.speculation import ForcedDrafts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytest.importorskip("openvino")

BLOCKS = 40
ANSWER = 24


class Waiting(Transcript):
    """A sink that tells when all jobs have ended."""

    def __init__(self, jobs: int) -> None:
        super().__init__()
        self._jobs = jobs
        self.done = threading.Event()

    def __call__(self, events: Any) -> None:
        super().__call__(events)
        if len(self.ends) == self._jobs:
            self.done.set()


def run(
    path: Path, prompts: Sequence[list[int]], answers: Sequence[list[int]] = (), **options: Any
) -> Waiting:
    """Serve the prompts at once; the transcript's jobs are `0`, `1`, ...

    With their `answers`, drafts of these are tried, with mistakes.
    """
    spec = ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "openvino", format="fp32")
    model = load(spec, lambda share, what: None).model
    stated: dict[str, Any] = {"slots": 4, "num_blocks": BLOCKS} | options
    chosen = EngineOptions(**stated)
    model.allocate(chosen.num_blocks)
    sink = Waiting(len(prompts))
    known = {str(job): answer for job, answer in enumerate(answers)}
    drafts = ForcedDrafts(known, random.Random(1), vocab_size=model.vocab_size) if known else None
    engine = Engine(model, WordTokenizer(), chosen, sink, drafter=drafts)
    for job, prompt in enumerate(prompts):
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=ANSWER)
        engine.submit(SequenceRequest(str(job), prompt, sampling))
    engine.start()
    try:
        assert sink.done.wait(60), engine.failure
    finally:
        engine.stop()
    assert all(isinstance(end, Finished) for end in sink.ends.values()), sink.ends
    return sink


def greedy(path: Path, prompt: list[int]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    token_ids = list(prompt)
    with torch.inference_mode():
        for _ in range(ANSWER):
            logits = model(torch.tensor([token_ids])).logits
            token_ids.append(int(logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = np.random.default_rng(5)
    return [generator.integers(3, 500, count).tolist() for count in (70, 1, 33, 150, 64, 9)]


@pytest.fixture(scope="module")
def expected(tiny_llama: Path, prompts: list[list[int]]) -> list[list[int]]:
    return [greedy(tiny_llama, prompt) for prompt in prompts]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slots": 1},
        {"slots": 6, "prefill_chunk_tokens": 17},
        {"prefix_caching": False},
        {"slots": 6, "num_blocks": 12},  # too few: sequences are preempted
    ],
    ids=str,
)
def test_greedy_text_does_not_hang_on_the_batch(
    tiny_llama: Path, prompts: list[list[int]], expected: list[list[int]], options: dict[str, Any]
) -> None:
    transcript = run(tiny_llama, prompts, **options)
    assert [transcript.tokens[str(job)] for job in range(len(prompts))] == expected


@pytest.mark.parametrize("options", [{}, {"slots": 6, "num_blocks": 12}], ids=str)
def test_guessed_tokens_do_not_change_the_text(
    tiny_llama: Path, prompts: list[list[int]], expected: list[list[int]], options: dict[str, Any]
) -> None:
    transcript = run(tiny_llama, prompts, expected, **options)
    assert [transcript.tokens[str(job)] for job in range(len(prompts))] == expected
    counts = [len(event.token_ids) for event in transcript.events if isinstance(event, Tokens)]
    assert max(counts) > 1


def test_a_shared_prefix_is_computed_once(tiny_llama: Path, prompts: list[list[int]]) -> None:
    shared = prompts[3][:128]
    jobs = [[*shared, 7, 8, 9], [*shared, 11], shared]
    transcript = run(tiny_llama, jobs, slots=1)

    assert [transcript.tokens[str(job)] for job in range(3)] == [
        greedy(tiny_llama, prompt) for prompt in jobs
    ]
    ends = [transcript.ends[str(job)] for job in range(3)]
    cached = [end.usage.cached_tokens for end in ends if isinstance(end, Finished)]
    assert cached[0] == 0
    assert cached[1] == 128
    assert cached[2] >= 96
