"""Published checkpoints behind HTTP: one worker serves GPTQ with act-order, AWQ and a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library
from tests.fixtures import gguf_files, published
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")


def test_answers_are_those_of_the_values(
    processes: Processes, redis_url: str, tmp_path: Path
) -> None:
    try:
        library.library()
    except ModelNotLoadable as missing:
        pytest.skip(str(missing))
    pytest.importorskip("gguf")
    plain = write_tiny_llama(tmp_path / "source", hidden_size=128)
    models = tmp_path / "models"
    models.mkdir()
    layouts = {
        "gptq": ({"quant_method": "gptq", "bits": 4, "desc_act": True}, published.gptq, 7),
        "awq": ({"quant_method": "awq", "bits": 4}, published.awq, None),
    }
    for name, (stated, layout, shuffled) in layouts.items():

        def convert(_: str, weight, layout=layout, shuffled=shuffled):
            found = published.codes_of(weight, 4, 32, symmetric=False, shuffled=shuffled)
            return layout(found), found.values

        published.write(plain, models / name, stated, convert, head=True)
    gguf_files.write(plain, models / "gguf", "Q8_0")
    names = ("gptq", "awq", "gguf")
    worker = processes.start_worker(",".join(f"{name}-cpu" for name in names), redis_url, models)
    api = processes.start_api(redis_url)
    with httpx.Client(base_url=api.url, timeout=120.0) as client:
        for name in names:
            asked = {
                "model": name,
                "messages": [{"role": "user", "content": "The quick brown fox"}],
                "temperature": 0,
                "max_tokens": 8,
            }
            answer = client.post("/v1/chat/completions", json=asked)
            assert answer.status_code == httpx.codes.OK, answer.text
            assert answer.json()["usage"]["completion_tokens"] >= 1
    text = worker.output() if callable(getattr(worker, "output", None)) else ""
    for label in ("published as gptq-int4, weights exact", "published as gguf-q8_0"):
        assert label in text, text[-2000:]
