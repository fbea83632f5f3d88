"""The statement of the engine: the same greedy text with and without batching, chunking, prefix
cache, preemption and speculation, on every backend that pages its cache.
"""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.native import library
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript, serve
from tests.fixtures.models import randomise, write_model
from tests.fixtures.speculation import ForcedDrafts

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.engine.options import EngineOptions
    from penstock.models.loader import LoadedModel

ANSWER = 40
SHARED = 128
BACKENDS = {"transformers": "fp32", "openvino": "fp32", "native": "sym_int4"}


@pytest.fixture(scope="module", params=BACKENDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    if request.param == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("the openvino extra is not installed")
    if request.param == "native":
        try:
            library.library()
        except ModelNotLoadable as missing:
            pytest.skip(str(missing))
    from transformers import LlamaConfig, LlamaForCausalLM

    folder: Path = tmp_path_factory.mktemp(request.param)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    write_model(folder / "tiny", randomise(LlamaForCausalLM(config), std=0.08))
    (folder / "models.toml").write_text(
        f'[models.tiny]\npath = "tiny"\nbackend = "{request.param}"\n'
        f'format = "{BACKENDS[request.param]}"\n'
    )
    settings = Settings(models_file=folder / "models.toml", threads=1, kv_cache_bytes=2**23)
    return loader.load(resolve("tiny-cpu", settings), settings, slots=8, progress=lambda *_: None)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Of several lengths; some begin alike, and one repeats itself as a quoting text does."""
    rng = random.Random(3)
    shared = [rng.randrange(3, 500) for _ in range(SHARED)]
    own = [[rng.randrange(3, 500) for _ in range(length)] for length in (5, 90, 31, 150, 17, 1)]
    return [*own, [*shared, *own[0]], [*shared, *own[2]], own[2] * 4]


def texts(
    loaded: LoadedModel,
    options: EngineOptions,
    prompts: list[list[int]],
    answers: dict[str, list[int]] | None = None,
) -> tuple[dict[str, list[int]], dict[str, str], Engine, Transcript]:
    """What an engine with these options answers when all prompts come at once."""
    told = Transcript()
    vocab_size = loaded.model.vocab_size
    drafts = ForcedDrafts(answers, random.Random(1), vocab_size=vocab_size) if answers else None
    engine = Engine(loaded.model, loaded.tokenizer, options, told, drafter=drafts)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=ANSWER)
    requests = [SequenceRequest(f"{job}", prompt, sampling) for job, prompt in enumerate(prompts)]
    serve(engine, *requests)
    return told.tokens, told.text, engine, told


@pytest.fixture(scope="module")
def alone(loaded: LoadedModel, prompts: list[list[int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One after another, in one chunk each, with nothing shared and nothing guessed."""
    plain = replace(
        loaded.options, slots=1, prefix_caching=False, speculation_tokens=0, target_step_ms=None,
        prefill_chunk_tokens=1024,
    )  # fmt: skip
    tokens, text, _, _ = texts(loaded, plain, prompts)
    return tokens, text


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": 8},
        {"slots": 8, "prefill_chunk_tokens": 7},
        {"slots": 8, "target_step_ms": 2.0},
        {"slots": 3, "prefix_caching": True},
        {"slots": 8, "prefix_caching": True, "speculation_tokens": 8},
        {"slots": 8, "num_blocks": 26},
    ],
    ids=str,
)
def test_the_same_greedy_text(loaded, prompts, alone, changes) -> None:
    off = {"prefix_caching": False, "speculation_tokens": 0, "target_step_ms": None}
    tokens, text, engine, told = texts(
        loaded, replace(loaded.options, **{**off, "prefill_chunk_tokens": 64, **changes}), prompts
    )
    assert (tokens, text) == alone
    load = engine.load()
    assert (load.preempted_total > 0) is ("num_blocks" in changes)
    cached = sum(told.finished(job).usage.cached_tokens for job in told.ends)
    assert (cached > 0) is changes.get("prefix_caching", False)


def test_the_same_greedy_text_with_everything_at_once_and_wrong_guesses(
    loaded, prompts, alone
) -> None:
    options = replace(
        loaded.options, slots=8, num_blocks=26, prefill_chunk_tokens=9, prefix_caching=True
    )
    tokens, text, engine, _ = texts(loaded, options, prompts, alone[0])
    assert (tokens, text) == alone
    load = engine.load()
    assert load.preempted_total > 0
    assert 0 < load.accepted_tokens_total < load.drafted_tokens_total
