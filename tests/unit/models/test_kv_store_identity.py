"""Blocks of KV cache are found again by the same model alone, read in the same way."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from penstock.models.loading.kv_store import open_store
from penstock.settings import Settings
from tests.fixtures.engine import HashModel

if TYPE_CHECKING:
    from pathlib import Path


class StorableHashModel(HashModel):
    block_format = "hash"

    def read_block(self, block: int) -> bytes:
        return bytes(self.cache[block])

    def write_block(self, block: int, content: bytes) -> bool:
        self.cache[block] = list(content)
        return True


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "config.json").write_text(json.dumps({"rope_theta": 1e4}))
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    return path


def identity(path: Path, form: str = "q4", block_format: str = "hash") -> bytes:
    hash_model = StorableHashModel(8)
    hash_model.block_format = block_format
    spec: Any = SimpleNamespace(path=path, queue="q")
    assembled: Any = SimpleNamespace(
        model=hash_model, batching="continuous", backend="native", format=form
    )
    store = open_store(spec, assembled, Settings(kv_store=path.parent / "store"))
    assert store
    return store.identity


def test_the_same_model_has_the_same_blocks(model: Path):
    assert identity(model) == identity(model)


@pytest.mark.parametrize(
    "file", ["config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_another_configuration_has_others(model: Path, file: str):
    before = identity(model)
    (model / file).write_text(json.dumps({"another": 1}))
    assert identity(model) != before


def test_other_weights_or_another_form_have_others(model: Path):
    before = identity(model)
    assert identity(model, form="f16") != before
    assert identity(model, block_format="another") != before
    (model / "model.safetensors").write_bytes(b"weighty")
    assert identity(model) != before
