"""How an engine runs a model: entry before setting, and guesses only where they are known to pay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.worker import ModelCard
from penstock.models.loading.engine_options import (
    LONE_CHUNK_TOKENS,
    engine_options,
    lone_chunk_tokens,
)
from penstock.models.loading.kv_budget import Room
from penstock.models.spec import ModelSpec
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.engine.options import EngineOptions


def options(
    settings: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    room: dict[str, Any] | None = None,
    *,
    headed: bool = False,
    **entry: Any,
) -> EngineOptions:
    shown = {
        "name": "m",
        "queue": "m-cpu",
        "device": "cpu",
        "backend": "openvino",
        "format": "",
        "architecture": "",
        "parameters": 1,
        "weights_bytes": 1,
        "context_length": 64,
        "vocab_size": 9,
        "slots": 3,
        "kv_cache_tokens": 64,
        **(card or {}),
    }
    spec = ModelSpec("m", "m-cpu", "cpu", None, Path("m"), "openvino", **entry)
    return engine_options(
        spec,
        Settings(**(settings or {})),
        ModelCard(**shown),
        Room(4, **(room or {})),
        chunk_tokens=256,
        headed=headed,
    )


def test_the_defaults_keep_streams_running():
    chosen = options()
    assert (chosen.slots, chosen.num_blocks, chosen.target_step_ms) == (3, 4, 200)
    assert chosen.prefix_caching


def test_the_engine_runs_what_the_spare_places_hold_beside_the_slots():
    assert options(card={"spare_slots": 2}).slots == 5


def test_the_entry_goes_before_the_setting():
    assert options({"target_step_ms": 70}).target_step_ms == 70
    assert options({"target_step_ms": 70}, target_step_ms=30.0).target_step_ms == 30
    assert options(target_step_ms=0.0).target_step_ms is None
    assert options({"speculation": "off"}, speculation="on").speculation_tokens > 0
    assert options({"speculation": "on"}, speculation="off").speculation_tokens == 0


@pytest.mark.parametrize(
    ("card", "wanted", "guesses"),
    [
        ({"backend": "native", "parameters": 1_100_000_000}, "auto", True),
        ({"backend": "native", "parameters": 9_000_000}, "auto", False),
        ({}, "auto", False),
        ({}, "on", True),
        ({"device": "cuda"}, "auto", False),
        ({"device": "cuda"}, "on", True),
        ({"backend": "bigdl"}, "auto", False),
        ({"batching": "grouped"}, "on", False),
    ],
)
def test_guesses_are_tried_where_they_pay(card: dict[str, Any], wanted: str, guesses: bool):
    assert (options({"speculation": wanted}, card).speculation_tokens > 0) is guesses
    assert options({}, {"batching": "grouped"}).prefix_caching is False


def test_a_model_that_keeps_states_drafts_with_a_head_or_if_told_to():
    card = {"backend": "native", "parameters": 1_100_000_000}
    chosen = options({"speculation": "auto"}, card, {"states": 7})
    assert (chosen.speculation_tokens, chosen.num_states) == (0, 7)
    assert options({"speculation": "on"}, card, {"states": 7}).speculation_tokens > 0
    headed = options({"speculation": "auto"}, card, {"states": 7}, headed=True)
    assert headed.speculation_tokens > 0
    assert chosen.prefix_caching


@pytest.mark.parametrize(
    ("running", "kind", "free_gib", "chunk", "wanted"),
    [
        ("lean", "cuda", 40, 0, LONE_CHUNK_TOKENS),
        ("lean", "cuda", 20, 0, 0),
        ("lean", "cuda", 40, 512, 0),
        ("lean", "cpu", 40, 0, 0),
        ("transformers", "cuda", 40, 0, 0),
    ],
)
def test_a_lone_prompt_gets_longer_chunks_on_large_gpus(running, kind, free_gib, chunk, wanted):
    device: Any = SimpleNamespace(kind=kind, free_bytes=lambda: free_gib << 30)
    assembled: Any = SimpleNamespace(running=running)
    settings = Settings(prefill_chunk_tokens=chunk)
    assert lone_chunk_tokens(assembled, device, settings) == wanted
