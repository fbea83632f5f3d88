"""Blocks that one engine has computed, loaded by another one: the same text, for each backend."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.native import library
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.jobs import wait_until
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.loader import LoadedModel

PROMPT = [3 + (n * 37) % 450 for n in range(150)]
ANSWER = 24
FORMATS = {"transformers": "fp32", "native": "sym_int4"}


def load(folder: Path, backend: str, store: Path, form: str = "") -> LoadedModel:
    (folder / "models.toml").write_text(
        f'[models.tiny]\npath = "tiny-llama"\nbackend = "{backend}"\n'
        f'format = "{form or FORMATS[backend]}"\n'
    )
    settings = Settings(
        models_file=folder / "models.toml",
        threads=1,
        kv_cache_bytes=2**23,
        kv_store=store,
        kv_store_bytes=2**24,
    )
    return loader.load(resolve("tiny-cpu", settings), settings, slots=4, progress=lambda *_: None)


def answer(loaded: LoadedModel, generated: tuple[int, ...] = ()) -> tuple[list[int], int]:
    """Return the answer of a new engine with an empty cache, and the tokens that it found."""
    loaded.model.allocate(loaded.options.num_blocks)
    transcript = Transcript()
    transcript.start["job"] = len(generated)
    options = dataclasses.replace(loaded.options, target_step_ms=None)
    engine = Engine(loaded.model, loaded.tokenizer, options, transcript, store=loaded.store)
    engine.start()
    try:
        sampling = Sampling(seed=5, temperature=0.8, max_tokens=ANSWER, ignore_eos=True)
        engine.submit(SequenceRequest("job", PROMPT, sampling, generated_token_ids=generated))
        wait_until(lambda: "job" in transcript.ends, 60.0)
    finally:
        engine.stop()
    return transcript.tokens["job"], transcript.finished("job").usage.cached_tokens


@pytest.mark.parametrize("backend", FORMATS)
def test_another_process_goes_on_from_the_blocks_of_the_first(tmp_path: Path, backend: str) -> None:
    if backend == "native":
        try:
            library.library()
        except ModelNotLoadable as missing:
            pytest.skip(str(missing))
    write_tiny_llama(tmp_path / "tiny-llama")
    store = tmp_path / "store"
    first, found = answer(load(tmp_path, backend, store))
    assert found == 0
    tokens, found = answer(load(tmp_path, backend, store))
    assert (tokens, found) == (first, 144)
    half, found = answer(load(tmp_path, backend, store), tuple(first[:12]))
    assert (half, found) == (first[12:], 150)


def test_models_and_formats_share_no_blocks(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny-llama")
    store = tmp_path / "store"
    answer(load(tmp_path, "transformers", store))
    _, found = answer(load(tmp_path, "transformers", store, "bf16"))
    assert found == 0
    write_tiny_llama(tmp_path / "tiny-llama", seed=9)
    _, found = answer(load(tmp_path, "transformers", store))
    assert found == 0


def test_a_backend_without_such_blocks_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    write_tiny_llama(tmp_path / "tiny-llama")
    assert load(tmp_path, "openvino", tmp_path / "store", "fp32").store is None
    assert "PENSTOCK_KV_STORE is not used" in caplog.text
