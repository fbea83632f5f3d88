from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from redis import exceptions
from redis.client import Pipeline

from penstock.contract.events import Event, Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.tokenizer_calls import TokenizerReply
from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.jobs.queue import Row, _retry_after_s
from penstock.transport.jobs.worker_queue import _row_arguments
from penstock.transport.store import connection, scripting


@pytest.mark.parametrize(
    ("event", "index", "count", "status"),
    [
        (Tokens("j", 3, (7, 8), "ab"), 3, 2, ""),
        (Finished("j", 5, FinishReason.LENGTH, Usage(1, 5)), 5, 0, "finished"),
        (Failed("j", 5, "cancelled", "x"), 5, 0, "cancelled"),
        (Failed("j", 5, "deadline_exceeded", "x"), 5, 0, "expired"),
        (Failed("j", 0, "context_length_exceeded", "x"), 0, 0, "failed"),
    ],
)
def test_what_the_append_script_is_given(event: Event, index: int, count: int, status: str) -> None:
    job_id, epoch, told_index, told_count, told_status, payload = _row_arguments(Row("j", 2, event))
    assert (job_id, epoch) == ("j", 2)
    assert (told_index, told_count, told_status) == (index, count, status)
    assert msgspec.json.decode(cast("bytes", payload), type=Event) == event


@pytest.mark.parametrize(
    ("over", "rate", "seconds"),
    [(1, 0.0, 5.0), (1, 10.0, 1.0), (30, 2.0, 15.0), (1, 0.4, 3.0), (1000, 0.01, 60.0)],
)
def test_retry_after(over: int, rate: float, seconds: float) -> None:
    assert _retry_after_s(over, rate) == seconds


def test_every_script_begins_with_the_prelude_and_no_other_is_there() -> None:
    folder = Path(scripting.__file__).parent / "scripts"
    # `limit` is of the keys' limits, not of a queue: it stands alone.
    assert {path.stem for path in folder.glob("*.lua")} == {
        *scripting.REPLIES, "affinity", "common", "limit",
    }  # fmt: skip
    prelude = (folder / "common.lua").read_text()
    affinity = (folder / "affinity.lua").read_text()
    for name in scripting.REPLIES:
        before = prelude + (affinity if name in {"claim", "forget"} else "")
        assert scripting._SOURCES[name] == before + (folder / f"{name}.lua").read_text()


def test_a_redis_that_forgot_its_scripts_gets_them_again() -> None:
    calls: list[str] = []

    def evalsha(digest: str, *_: object) -> None:
        calls.append("evalsha")
        raise exceptions.NoScriptError

    def evaluate(source: str, *arguments: object) -> str:
        calls.append("eval")
        assert source == scripting._SOURCES["depth"]
        assert arguments == (2, "penstock:{q-cpu}:", "q-cpu", 2000, 600_000, "x")
        return "answer"

    settings: Any = SimpleNamespace(lease_ms=2000, journal_ttl_s=600)
    client: Any = SimpleNamespace(evalsha=evalsha, eval=evaluate)
    scripts = scripting.Scripts(client, settings)
    assert scripts.run("depth", "q-cpu", "x") == "answer"
    assert calls == ["evalsha", "eval"]


def in_a_pipeline(error: Exception) -> Exception:
    """Return an error as redis-py words it for a command of a pipeline."""
    nobody: Any = None
    Pipeline.annotate_exception(nobody, error, 1, ("XRANGE", "key"))
    return error


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (exceptions.ConnectionError("gone"), True),
        (exceptions.TimeoutError("slow"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.ReadOnlyError("replica"), True),
        (exceptions.ClusterDownError("down"), True),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), True),
        (exceptions.ResponseError("MISCONF no disk"), True),
        (in_a_pipeline(exceptions.ResponseError("BUSY Redis is busy running a script")), True),
        (in_a_pipeline(exceptions.ResponseError("ERR unknown command")), False),
        (exceptions.ResponseError("ERR unknown command"), False),
        (exceptions.AuthenticationError("no"), False),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"), False),
        (ConnectionResetError(), True),
        (RuntimeError("unable to perform operation; the handler is closed"), True),
        (RuntimeError("a mistake"), False),
    ],
)
def test_which_errors_pass(error: Exception, passing: bool) -> None:
    assert connection.is_passing(error) is passing


def test_out_of_memory_is_reported_at_once() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")

    with pytest.raises(StoreUnavailable, match="out of memory"):
        connection.patiently(call, 60.0)
    assert len(calls) == 1


def test_keys_of_a_queue_share_its_hash_tag() -> None:
    for key in (keys.job("a-cpu", "j"), keys.journal("a-cpu", "j"), keys.tokenizer_calls("a-cpu")):
        assert key.startswith("penstock:{a-cpu}:")


def test_replies_to_calls_travel_with_events() -> None:
    """Both are tagged, so one decoder reads a channel."""
    mixed: list[object] = [Tokens("j", 0, (1,), "a"), TokenizerReply("c", text="b")]
    types = [item["type"] for item in json.loads(msgspec.json.encode(mixed))]
    assert types == ["tokens", "utility"]
    decoded = msgspec.json.decode(msgspec.json.encode(mixed), type=list[Event | TokenizerReply])
    assert decoded == mixed
