"""The engine's thread: it serves, waits for its sink, and shows what has ended it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.errors import EngineFailed
from tests.fixtures.engine import HashModel, Transcript, WordTokenizer
from tests.unit.engine.test_engine import VOCAB, Breaks, request, setup


def eventually(true: Any, within_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_the_thread_serves_sleeps_and_wakes():
    engine, _, told = setup()
    engine.start()
    try:
        for turn in range(3):
            engine.submit(request(f"{turn}", max_tokens=5))
            eventually(lambda turn=turn: f"{turn}" in told.ends)
            eventually(lambda: not engine.busy())
        load = engine.load()
        assert load.finished_total == 3
        assert load.generated_tokens_total == 15
        assert load.prompt_tokens_total == 9
        assert load.decode_tokens_per_s > 0
        assert load.step_ms > 0
        assert (load.running, load.waiting, load.kv_use) == (0, 0, 0.0)
        cpu_s, idle_since = time.thread_time(), engine.last_step_s()
        eventually(lambda: engine.last_step_s() > idle_since)  # idle ticks
        assert time.thread_time() - cpu_s < 0.3
    finally:
        engine.stop(5)
    assert engine.failure is None


def test_the_sink_holds_the_engine_back():
    gate = threading.Event()
    told = Transcript()

    def sink(events: list[Any]) -> None:
        gate.wait(10)
        told(events)

    model = HashModel(40, vocab_size=VOCAB)
    engine = Engine(model, WordTokenizer(), EngineOptions(4, 40), sink)
    engine.start()
    try:
        engine.submit(request(max_tokens=5))
        eventually(lambda: len(model.steps) == 1)
        assert engine.busy()
        gate.set()
        eventually(lambda: "job" in told.ends)
    finally:
        gate.set()
        engine.stop(5)


def test_abort_from_another_thread_ends_a_long_answer():
    engine, _, told = setup(blocks=64)
    engine.start()
    try:
        engine.submit(request(max_tokens=None))
        eventually(lambda: told.tokens.get("job"))
        engine.abort(["job"])
        eventually(lambda: not engine.busy())
        assert told.ends == {} or len(told.tokens["job"]) > 200
    finally:
        engine.stop(5)


def test_a_broken_model_leaves_its_error_for_the_watcher():
    engine, _, _ = setup(slots=1, before_forward=Breaks(ValueError("dead"), 1, 2, 3))
    engine.start()
    for n in range(3):
        engine.submit(request(f"{n}"))
    eventually(lambda: engine.failure is not None)
    assert isinstance(engine.failure, EngineFailed)
    assert isinstance(engine.failure.__cause__, ValueError)
    engine.stop(5)


def test_a_step_that_hangs_is_reported_by_stop_and_by_the_clock():
    began, gate = threading.Event(), threading.Event()

    def hang(batch: object) -> None:
        began.set()
        gate.wait(10)

    engine, _, _ = setup(before_forward=hang)
    engine.start()
    try:
        before = engine.last_step_s()
        engine.submit(request(max_tokens=1))
        assert began.wait(10)
        with pytest.raises(TimeoutError):
            engine.stop(0.05)
        assert engine.last_step_s() >= before
        assert engine.last_step_s() < time.monotonic() - 0.05
    finally:
        gate.set()
        engine.stop(5)
