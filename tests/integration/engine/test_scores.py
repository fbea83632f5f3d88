"""What a prompt itself tells, its scores and its embedding: as Transformers' own forward has it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from penstock.contract.events import UNKNOWN_LOGPROB, Failed, FinishReason
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.contract.events import PositionLogprobs
    from penstock.models.loader import LoadedModel

PROMPTS = [
    [5, 9, 300, 42, 7, 7, 8, 500, 17, 21, 33, 46, 57, 68, 79, 80, 91, 99],
    list(range(100, 180)),
    [3],
    [4, 5],
]


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path) -> LoadedModel:
    settings = Settings(models_dir=tiny_llama.parent, threads=1, kv_cache_bytes=2**22)
    return loader.load(
        resolve("tiny-llama-cpu", settings), settings, slots=4, progress=lambda *_: None
    )


@pytest.fixture(scope="module")
def own(tiny_llama: Path):
    """Transformers' log probabilities, (tokens, vocab): row p is of the token after p."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)

    def logprobs(tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    return logprobs


def run(loaded: LoadedModel, requests: list[SequenceRequest], **options) -> Transcript:
    """Run all at once; the engine of each call begins with an empty cache."""
    transcript = Transcript()
    blocks = options.pop("blocks", loaded.card.kv_cache_tokens // 16)
    engine = Engine(loaded.model, loaded.tokenizer, EngineOptions(4, blocks, **options), transcript)
    engine.start()
    try:
        for request in requests:
            engine.submit(request)
        wait_until(lambda: len(transcript.ends) == len(requests), 60)
    finally:
        engine.stop()
    return transcript


def told(transcript: Transcript, job: str) -> list[PositionLogprobs]:
    return [
        position
        for event in transcript.events
        if event.job_id == job and not isinstance(event, Failed)
        for position in event.logprobs
    ]


def check(positions: list[PositionLogprobs], tokens: list[int], rows: torch.Tensor, best: int):
    assert [position.chosen.token_id for position in positions] == tokens
    assert positions[0].chosen.logprob == UNKNOWN_LOGPROB
    assert positions[0].top == ()
    for place, position in enumerate(positions[1:]):
        assert position.chosen.logprob == pytest.approx(
            float(rows[place, tokens[place + 1]]), abs=1e-3
        )
        values = rows[place].topk(max(best, 1)).values[:best].tolist()
        assert [one.logprob for one in position.top] == pytest.approx(values, abs=1e-3)


@pytest.mark.parametrize("chunk", [5, 16, 256])
@pytest.mark.parametrize("max_tokens", [0, 1, 4])
def test_scores_are_those_of_transformers(loaded, own, chunk, max_tokens) -> None:
    requests = [
        SequenceRequest(
            f"j{number}",
            tokens,
            Sampling(
                seed=1, temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=number
            ),
            scores_prompt=True,
        )
        for number, tokens in enumerate(PROMPTS)
    ]
    transcript = run(loaded, requests, prefill_chunk_tokens=chunk)
    for number, tokens in enumerate(PROMPTS):
        job = f"j{number}"
        assert transcript.finished(job).reason is FinishReason.LENGTH
        assert transcript.finished(job).usage.completion_tokens == max_tokens
        generated = transcript.tokens.get(job, [])
        assert len(generated) == max_tokens
        whole = tokens + generated
        check(told(transcript, job), whole, own(whole), number)


def test_neighbours_are_the_same_beside_a_scored_prompt(loaded) -> None:
    plain = SequenceRequest("p", PROMPTS[1], Sampling(seed=2, max_tokens=20, ignore_eos=True))
    scored = [
        SequenceRequest(f"s{n}", PROMPTS[0], Sampling(seed=n, max_tokens=0, logprobs=1),
                        scores_prompt=True)
        for n in range(5)
    ]  # fmt: skip
    alone = run(loaded, [plain], prefill_chunk_tokens=7)
    beside = run(loaded, [scored[0], plain, *scored[1:]], prefill_chunk_tokens=7)
    assert beside.tokens["p"] == alone.tokens["p"]
    for n in range(5):
        assert [position.chosen.token_id for position in told(beside, f"s{n}")] == PROMPTS[0]


def test_what_the_prefix_cache_holds_is_scored_all_the_same(loaded, own) -> None:
    tokens = PROMPTS[1]
    plain = SequenceRequest("p", tokens, Sampling(seed=1, max_tokens=1, temperature=0))
    scored = SequenceRequest(
        "s", tokens, Sampling(seed=1, max_tokens=0, logprobs=0), scores_prompt=True
    )
    transcript = Transcript()
    engine = Engine(loaded.model, loaded.tokenizer, EngineOptions(4, 64), transcript)
    engine.start()
    for request in (plain, scored):
        engine.submit(request)
        wait_until(lambda job=request.job_id: job in transcript.ends, 60)
    engine.stop()
    check(told(transcript, "s"), tokens, own(tokens), 0)


def test_preempted_prompts_are_scored_once(loaded, own) -> None:
    """Too few blocks for all: some lose theirs midway and start again."""
    requests = [
        SequenceRequest(
            f"j{number}",
            [number + 3, *PROMPTS[1]],
            Sampling(seed=1, temperature=0, max_tokens=40, ignore_eos=True, logprobs=1),
            scores_prompt=True,
        )
        for number in range(3)
    ]
    transcript = run(loaded, requests, blocks=17, prefill_chunk_tokens=32)
    for number in range(3):
        whole = [number + 3, *PROMPTS[1]] + transcript.tokens[f"j{number}"]
        check(told(transcript, f"j{number}"), whole, own(whole), 1)


def test_a_continued_answer_does_not_emit_them_again(loaded) -> None:
    sampling = Sampling(seed=1, temperature=0, max_tokens=3, ignore_eos=True, logprobs=0)
    first = run(loaded, [SequenceRequest("j", PROMPTS[0], sampling, scores_prompt=True)])
    tokens = first.tokens["j"]
    transcript = Transcript()
    transcript.start["j"] = 1
    engine = Engine(loaded.model, loaded.tokenizer, EngineOptions(4, 64), transcript)
    engine.start()
    engine.submit(SequenceRequest(
        "j", PROMPTS[0], sampling, generated_token_ids=tokens[:1], scores_prompt=True
    ))  # fmt: skip
    wait_until(lambda: "j" in transcript.ends, 60)
    engine.stop()
    assert transcript.tokens["j"] == tokens[1:]
    assert len(told(transcript, "j")) == 2


@pytest.fixture(scope="module")
def mean_states(tiny_llama: Path):
    """The mean of Transformers' last hidden states."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_llama, dtype=torch.float32)

    def mean(tokens: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([tokens])).last_hidden_state[0].mean(0).numpy()

    return mean


@pytest.mark.parametrize("chunk", [5, 256])
def test_embeddings_are_mean_states_beside_running_answers(loaded, mean_states, chunk) -> None:
    plain = SequenceRequest("p", PROMPTS[1], Sampling(seed=2, max_tokens=20, ignore_eos=True))
    asked = Sampling(seed=0, temperature=0, max_tokens=0)
    embeds = [
        SequenceRequest(f"e{number}", tokens, asked, embeds=True)
        for number, tokens in enumerate([*PROMPTS, PROMPTS[1]])
    ]
    alone = run(loaded, [plain], prefill_chunk_tokens=chunk)
    transcript = run(loaded, [plain, *embeds], prefill_chunk_tokens=chunk)
    assert transcript.tokens["p"] == alone.tokens["p"]
    for number, tokens in enumerate([*PROMPTS, PROMPTS[1]]):
        end = transcript.finished(f"e{number}")
        assert end.embedding is not None
        assert end.usage.prompt_tokens == len(tokens)
        assert end.usage.completion_tokens == 0
        vector = np.frombuffer(base64.b64decode(end.embedding), "<f4")
        np.testing.assert_allclose(vector, mean_states(tokens), atol=1e-4)


def test_a_model_without_hidden_states_refuses() -> None:
    from tests.fixtures.engine import ByteTokenizer, HashModel

    transcript = Transcript()
    engine = Engine(HashModel(8), ByteTokenizer(), EngineOptions(2, 8), transcript)
    engine.start()
    asked = Sampling(seed=0, max_tokens=0)
    engine.submit(SequenceRequest("e", [1, 2], asked, embeds=True))
    wait_until(lambda: "e" in transcript.ends, 60)
    engine.stop()
    assert transcript.failed("e").code == "unsupported_feature"
    assert transcript.failed("e").param == "model"
