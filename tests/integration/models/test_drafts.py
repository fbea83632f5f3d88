"""A model of the models file that drafts for another one: loaded beside it, or refused in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.errors import BadSettings, ModelNotFound, ModelNotLoadable
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript, serve
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

LARGE = '[models.large]\npath = "large"\nbackend = "transformers"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drafts")
    for name in ("large", "twin"):
        write_tiny_llama(path / name)
    write_tiny_llama(path / "small", seed=1, hidden_size=32, layers=1)
    file = write_tiny_llama(path / "other") / "tokenizer.json"
    document = json.loads(file.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(document))
    return path


def settings_of(folder: Path, draft: str, **changes: Any) -> Settings:
    file = folder / f"{draft.replace('/', '-')}.toml"
    file.write_text(
        f'{LARGE}draft = "{draft}"\n'
        '[models.drafted]\npath = "small"\ndraft = "small"\n[models.small]\nbackend = "transformers"\n'
        '[models.twin]\nbackend = "transformers"\n[models.other]\nbackend = "transformers"\n'
    )
    return Settings(
        models_dir=folder, models_file=file, threads=1, kv_cache_bytes=1 << 22, **changes
    )


def load(settings: Settings) -> loader.LoadedModel:
    return loader.load(
        resolve("large-cpu", settings), settings, slots=2, progress=lambda _share, _what: None
    )


def answered(loaded: loader.LoadedModel) -> tuple[dict[str, list[int]], Any]:
    told = Transcript()
    engine = Engine(
        loaded.model, loaded.tokenizer, loaded.options, told, draft_model=loaded.draft_model
    )
    how = Sampling(seed=0, temperature=0.0, max_tokens=24, ignore_eos=True)
    serve(engine, *(SequenceRequest(str(job), [5 + job, 6, 7, 8], how) for job in range(2)))
    return dict(told.tokens), engine.load()


@pytest.mark.parametrize("draft", ["twin", "small"])
def test_a_model_drafts_for_another(folder: Path, draft: str):
    plain = load(settings_of(folder, draft, speculation="off"))
    assert plain.draft_model is None
    drafted = load(settings_of(folder, draft))
    assert drafted.draft_model is not None
    (text, _), (same, figures) = answered(plain), answered(drafted)
    assert same == text
    if draft == "twin":
        assert figures.accepted_tokens_total > 0.5 * figures.drafted_tokens_total > 0


@pytest.mark.parametrize(
    ("draft", "error", "reason"),
    [
        ("other", ModelNotLoadable, "2 of its tokens are others"),
        ("nothing", ModelNotFound, "no model 'nothing'"),
        ("large", BadSettings, "another model"),
        ("drafted", BadSettings, "has a draft itself"),
    ],
)
def test_a_model_that_cannot_draft_is_refused(folder: Path, draft: str, error: Any, reason: str):
    with pytest.raises(error, match=reason):
        load(settings_of(folder, draft))
