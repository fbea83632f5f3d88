"""Spans of attempts that fail or are given up, and none where nobody asked for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.errors import BadSettings, EngineFailed
from penstock.observability.tracing import Tracing
from penstock.settings import Settings
from tests.fixtures.jobs import make_job

if TYPE_CHECKING:
    from pathlib import Path


pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

QUEUE = "tiny-llama-cpu"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARTS = ["queue wait", "claim", "prefill", "decode"]


def spans(file: Path) -> dict[str, dict[str, Any]]:
    return {span["name"]: span for span in map(json.loads, file.read_text().splitlines())}


def test_an_attempt_that_fails_and_one_that_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    tracing = Tracing(Settings(traces=str(file)), "test")
    start_ns = 10**18
    for number, end in enumerate((Failed("j", 1, EngineFailed.code, "broke"), None)):
        attempt = tracing.attempt(
            make_job(model=f"m{number}"), (start_ns, start_ns + 1000), "w", number + 1
        )
        assert not attempt.see(Tokens("j", 0, (1,), "a"), start_ns + 2000)
        if end is None:
            attempt.drop(start_ns + 3000)
        else:
            assert attempt.see(end, start_ns + 3000)
    whole = tracing.attempt(make_job(model="m2"), (start_ns, start_ns), "w", 1)
    assert whole.see(Finished("j", 0, FinishReason.STOP, Usage(1, 0)), start_ns)
    tracing.close()
    seen = spans(file)
    assert seen["text_completion m0"]["status"]["status_code"] == "ERROR"
    assert seen["text_completion m0"]["attributes"]["error.type"] == "engine_failed"
    assert seen["text_completion m1"]["attributes"]["penstock.dropped"] is True
    assert seen["text_completion m2"]["status"]["status_code"] == "UNSET"


def test_spans_go_nowhere_by_default(tmp_path: Path) -> None:
    assert Tracing.of(Settings(), "test") is None
    with pytest.raises(BadSettings, match="PENSTOCK_TRACES"):
        Tracing.of(Settings(traces=str(tmp_path / "no" / "folder")), "test")
