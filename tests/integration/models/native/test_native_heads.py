"""Heads that draft in the native library: what they draft, that texts stay the same, and who has none."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from penstock.contract.job import Sampling
from penstock.engine.drafting.speculation import Speculation
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.sequence import SequenceRequest
from penstock.errors import BadSettings, ModelNotFound, ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.native import library
from penstock.models.backends.native.drafting.step_hidden import StepHidden
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript, serve
from tests.fixtures.heads import CYCLE, LAYOUTS, Eagle3, Written, as_it_goes_on, by_turns
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.options import EngineOptions

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

COUNT = 4


def load(folder: Path, entry: str = "", *, path: str = "model", **changes: Any) -> Any:
    """A model of a folder as a worker has it."""
    file = folder / "models.toml"
    lines = f'[models.x]\npath = "{path}"\nbackend = "native"\nformat = "fp32"\n{entry}\n'
    file.write_text(lines)
    settings = Settings(
        models_file=file, models_dir=folder / "none", threads=1, kv_cache_bytes=1 << 23,
        **{"speculation": "on", **changes},
    )  # fmt: skip
    spec = resolve("x-cpu", settings)
    return loader.load(spec, settings, slots=4, progress=lambda *_: None)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each layout's checkpoint and model, made when they are asked for."""
    made: dict[str, tuple[Written, Any]] = {}

    def of(name: str) -> tuple[Written, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = Written(folder / "model", LAYOUTS[name]), load(folder)
        return made[name]

    return of


@pytest.fixture(scope="module")
def eagle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Eagle3, Any]:
    """A model with a head of EAGLE-3."""
    folder = tmp_path_factory.mktemp("eagle")
    made = Eagle3(folder)
    return made, load(folder, 'draft = { path = "head", kind = "eagle3" }')


def texts() -> Iterator[list[int]]:
    rng = random.Random(4)
    for length in (2, 5, 33, 70):
        yield [rng.randrange(3, 500) for _ in range(length)]


def drafted(model: Any, text: list[int], *, chunk: int, count: int = COUNT) -> list[int]:
    """What a model's head drafts behind a text, whose other tokens come in chunks."""
    table = list(range(8))
    for start in range(0, len(text) - 1, chunk):
        part = text[start : min(start + chunk, len(text) - 1)]
        place = 0 if model.state_bytes else -1
        model.forward(Batch([SequenceSlice(1, part, start, table, len(part) - 1, state=place)]))
    last = SequenceSlice(1, text[-1:], len(text) - 1, table, 0)
    try:
        return model.draft(Batch([last]), count)[0]
    finally:
        model.release(1)


@pytest.mark.parametrize("chunk", [512, 7])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_head_drafts_what_its_formula_says(written: Any, name: str, chunk: int) -> None:
    checkpoint, loaded = written(name)
    assert loaded.model.draft_kind == "mtp"
    for text in texts():
        expected = checkpoint.drafts(text, COUNT)
        assert drafted(loaded.model, text, chunk=chunk) == expected


@pytest.mark.parametrize(
    "switches", [{}, {"norm_before_residual": True}, {"nested": True}], ids=str
)
def test_eagle3_drafts_what_its_formula_says(tmp_path: Path, switches: dict[str, Any]) -> None:
    made = Eagle3(tmp_path, **switches)
    model = load(tmp_path, 'draft = { path = "head" }').model
    assert model.draft_kind == "eagle3"
    for text in texts():
        expected = made.drafts(text, COUNT)
        assert drafted(model, text, chunk=512) == drafted(model, text, chunk=7) == expected


def prompts() -> list[list[int]]:
    rng = random.Random(3)
    shared = [rng.randrange(3, 500) for _ in range(40)]
    return [
        (shared if length > 30 else []) + [rng.randrange(3, 500) for _ in range(length)]
        for length in (5, 61, 31, 17, 1, 40)
    ]


def requests(begun: dict[str, list[int]], **sampling: Any) -> list[SequenceRequest]:
    """All prompts' requests, with what another worker has answered already."""
    how = Sampling(seed=1, max_tokens=24, ignore_eos=True, **{"temperature": 0.7, **sampling})
    return [
        SequenceRequest(str(job), prompt, how, generated_token_ids=tuple(begun.get(str(job), ())))
        for job, prompt in enumerate(prompts())
    ]


def answers(
    loaded: Any, options: EngineOptions, seed: int | None = None, begun: int = 0, **known: Any
) -> tuple[dict[str, list[int]], Any]:
    """What an engine answers; with a seed, requests come at random times."""
    told = Transcript()
    whole = {job: tokens[:begun] for job, tokens in known.get("whole", {}).items()}
    for job in whole:
        told.start[job] = begun
    engine = Engine(loaded.model, loaded.tokenizer, options, told)
    waiting: list[Any] = requests(whole)
    rng, more = random.Random(seed), True
    while waiting or more:
        count = len(waiting) if seed is None else rng.choice([0, 0, 1, 2])
        coming, waiting = waiting[:count], waiting[count:]
        more = engine._turn(coming)
    return told.tokens, engine.load()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have drafts pay at any time: what this machine measures decides nothing."""
    monkeypatch.setattr(Speculation, "_price", lambda *_: 0.0)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["glm-4.5", "deepseek-v3", "qwen3.5", "eagle3"])
def test_texts_are_what_they_are_without_drafts(written: Any, eagle: Any, kind: str) -> None:
    _, loaded = eagle if kind == "eagle3" else written(kind)
    plain = replace(
        loaded.options, slots=1, prefix_caching=False, speculation_tokens=0, target_step_ms=None
    )
    alone, _ = answers(loaded, plain)
    drafts = replace(plain, slots=4, speculation_tokens=5, prefill_chunk_tokens=16)
    for seed, (changes, preempted) in enumerate(
        [({}, False), ({"prefix_caching": True}, False), ({"num_blocks": 9}, True)]
    ):
        found, load = answers(loaded, replace(drafts, **changes), seed)
        assert found == alone
        assert load.drafts_by_kind[loaded.model.draft_kind].drafted_tokens_total > 20
        assert (load.preempted_total > 0) is preempted
    resumed, _ = answers(loaded, drafts, begun=9, whole=alone)
    assert resumed == {job: tokens[9:] for job, tokens in alone.items()}
    assert not loaded.model._trails._trails, "sequences that have ended are forgotten"


@pytest.mark.usefixtures("always")
def test_every_token_of_a_head_that_is_right_is_accepted(tmp_path: Path) -> None:
    Written(tmp_path / "model", LAYOUTS["glm-4.5"], as_it_goes_on)
    loaded = load(tmp_path)
    _accepts_all(loaded, [[5, 6, 7], list(range(20, 60))], "mtp")


@pytest.mark.usefixtures("always")
def test_every_token_of_a_head_of_eagle3_that_is_right_is_accepted(tmp_path: Path) -> None:
    Eagle3(tmp_path, norm_before_residual=True, change=by_turns)
    loaded = load(tmp_path, 'draft = { path = "head" }')
    _accepts_all(loaded, [list(CYCLE)[:3], [*CYCLE, *CYCLE[:7]]], "eagle3")


def _accepts_all(loaded: Any, prompts: list[list[int]], kind: str) -> None:
    options = replace(loaded.options, target_step_ms=None, speculation_tokens=4)
    told = Transcript()
    engine = Engine(loaded.model, loaded.tokenizer, options, told)
    # The text itself would suggest how a cycle goes on.
    engine._drafter._guess = lambda sequence, state, price: None  # type: ignore[attr-defined]
    how = Sampling(seed=0, temperature=0.0, max_tokens=41, ignore_eos=True)
    serve(engine, *(SequenceRequest(str(job), text, how) for job, text in enumerate(prompts)))
    counts = engine.load().drafts_by_kind[kind]
    # The first token of an answer comes with its prompt; then five a step.
    assert counts.drafted_tokens_total == counts.accepted_tokens_total == 2 * 32


def test_stored_blocks_have_the_heads_keys_too(written: Any) -> None:
    _, loaded = written("glm-4.5")
    model = loaded.model
    content = model.read_block(0)
    assert len(content) == model.kv_layout.bytes_per_block
    text = list(range(3, 20))
    expected = drafted(model, text, chunk=512)
    first = model.read_block(0)
    model.write_block(0, bytes(len(first)))
    assert model.write_block(0, first)
    assert model.read_block(0) == first
    assert not model.write_block(0, first[:-1])
    assert drafted(model, text, chunk=512) == expected


def test_a_head_that_rests_follows_few_sequences(written: Any) -> None:
    _, loaded = written("glm-4.5")
    model = loaded.model
    model.rest(resting=True)
    try:
        for key in range(1, 33):
            model.forward(Batch([SequenceSlice(key, [5, 6, 7], 0, [0], 2)]))
        last = [SequenceSlice(key, [8], 3, [0], 0) for key in range(1, 33)]
        found = model.draft(Batch(last[:16]), 1) + model.draft(Batch(last[16:]), 1)
        assert [key for key, draft in enumerate(found, 1) if draft] == [16, 32]
    finally:
        model.rest(resting=False)
        for key in range(1, 33):
            model.release(key)


@pytest.mark.parametrize("speculation", ["off", "auto"])
def test_without_drafts_no_head_is_loaded(written: Any, speculation: str) -> None:
    checkpoint, headed = written("mimo")
    loaded = load(checkpoint.path.parent, speculation=speculation)  # so small, `auto` is off
    assert loaded.model.draft_kind == ""
    assert loaded.card.weights_bytes < headed.card.weights_bytes
    assert loaded.model.kv_layout.bytes_per_block < headed.model.kv_layout.bytes_per_block


def test_a_backend_without_heads_says_so(written: Any, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint, _ = written("mimo")
    folder = checkpoint.path.parent
    file = folder / "transformers.toml"
    file.write_text('[models.x]\npath = "model"\nbackend = "transformers"\n')
    settings = Settings(models_file=file, models_dir=folder, threads=1, kv_cache_bytes=1 << 23,
                        speculation="on")  # fmt: skip
    with caplog.at_level("WARNING"):
        loader.load(resolve("x-cpu", settings), settings, slots=2, progress=lambda *_: None)
    lines = [record.getMessage() for record in caplog.records if "head" in record.getMessage()]
    assert len(lines) == 1
    assert "the backend 'transformers' computes no such heads" in lines[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 64, "head_dim": 32}, "hidden states of 64, the model's 128"),
        ({"num_hidden_layers": 2}, "2 layers in a head"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 9]}}, r"\[2, 10\] of 8"),
        ({"draft_vocab_size": 255}, "lm_head.weight is"),
    ],
)
def test_a_head_of_another_model_is_refused(
    eagle: tuple[Eagle3, Any], change: dict[str, Any], reason: str
) -> None:
    made, _ = eagle
    file = made.head / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | change))
    try:
        with pytest.raises(ModelNotLoadable, match=reason):
            load(made.head.parent, 'draft = { path = "head", kind = "eagle3" }')
    finally:
        file.write_text(before)


def test_a_head_is_recognised_by_its_name(eagle: tuple[Eagle3, Any], tmp_path: Path) -> None:
    made, _ = eagle
    write_tiny_llama(tmp_path / "model")
    file = tmp_path / "models.toml"
    settings = Settings(models_file=file, models_dir=tmp_path)
    file.write_text(
        f'[models.x]\npath = "model"\ndraft = "head"\n[models.head]\npath = "{made.head}"\n'
    )
    spec = resolve("x-cpu", settings)
    assert (spec.draft, spec.eagle3) == (None, made.head)
    for draft, error, reason in (
        ('{ path = "nothing" }', ModelNotFound, "no such folder"),
        ('{ path = "model", kind = "medusa" }', BadSettings, "draft"),
    ):
        file.write_text(f'[models.x]\npath = "model"\ndraft = {draft}\n')
        with pytest.raises(error, match=reason):
            resolve("x-cpu", settings)


def test_taps_and_rows_that_cannot_be(written: Any) -> None:
    _, loaded = written("mimo")
    decoder, model = loaded.model.decoder, loaded.model
    step = model._step_of(Batch([SequenceSlice(9, [5, 6], 0, [0], 0)]))
    for inner, reason in (
        (StepHidden(logit_rows=np.array([2], np.int32)), "logits of a row"),
        (StepHidden(logit_rows=np.array([1, 1], np.int32)), "logits of a row"),
        (
            StepHidden(
                tap_layers=np.array([2], np.int32), tapped=np.empty((1, 2, 128), np.float32)
            ),
            "a tap before a layer",
        ),
        (StepHidden(tap_layers=np.array([0], np.int32)), "no room"),
    ):
        count = 2 if inner.logit_rows is None else len(inner.logit_rows)
        logits = torch.empty((count, 512)).numpy()
        hidden = torch.empty((2, 128)).numpy()
        with pytest.raises(ValueError, match=reason):
            model._compute(
                Batch([SequenceSlice(9, [5, 6], 0, [0], 0)]), step, logits, hidden, inner
            )
    packing = next(iter(decoder._packings.values()))
    with pytest.raises(ValueError, match="columns"):
        decoder.project(packing, np.zeros(64, np.uint8), np.zeros((1, 3), np.float32))
