"""Whatever a batch's file holds, the batch ends, and other batches go on."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import openai
import pytest

from api.openai.batches import drive as batch_drive
from api.openai.batches import driver as batch_driver
from api.openai.batches import lines as batch_lines
from api.openai.batches.batch_files import BatchFiles
from api.openai.batches.file_store import FileStore
from api.openai.batches.lines import MOST_CUSTOM_ID, faults, lines
from api.openai.batches.objects import FolderObjects
from api.openai.batches.store import Batch, BatchStore, Row
from penstock.foreign import JSON_NESTING
from penstock.settings import Settings
from tests.fixtures.api import speak
from tests.integration.api.openai.test_batches_api import CHAT, ended, request_line, rows, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

MOST_BYTES = 4_096


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> ApiServer:
    return fleet.api(files_dir=tmp_path, resume_grace_s=0.5)


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def raw_line(number: int, extra: str) -> str:
    """A request with a field of raw JSON."""
    return json.dumps(request_line(number))[:-2] + f', "extra": {extra}' + "}}"


def nested(levels: int) -> str:
    return "[" * levels + "1" + "]" * levels


def test_hostile_lines_are_named_and_nothing_stops_the_driver(
    fleet: Fleet, client: openai.OpenAI
) -> None:
    fleet.worker()
    hostile = (
        "[" * 100_000,
        '{"a":' * 100_000,
        raw_line(2, nested(JSON_NESTING - 1)),  # two levels in already
        raw_line(3, "9" * 5_000),
        raw_line(4, "NaN"),
        raw_line(5, '"\\ud800"'),
        "null",
        json.dumps({**request_line(7), "custom_id": "x" * (MOST_CUSTOM_ID + 1)}),
        request_line(8),
    )
    batch = ended(client, start(client, *hostile))
    assert batch.status == "failed"
    assert [error.line for error in batch.errors.data] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "nested deeper than 200 levels" in batch.errors.data[0].message
    at_the_bounds = (
        raw_line(0, nested(JSON_NESTING - 2)),
        raw_line(1, "9" * 4_000),
        raw_line(2, "1e999"),
        json.dumps({**request_line(3), "custom_id": "x" * MOST_CUSTOM_ID}),
    )
    batch = ended(client, start(client, *at_the_bounds))
    assert (batch.status, batch.request_counts.completed) == ("completed", len(at_the_bounds))


def test_lines_are_read_within_their_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines"
    fitting = json.dumps(request_line(0))
    fitting += " " * (MOST_BYTES - len(fitting) - 1) + "\n"  # its end is counted
    too_long = json.dumps(request_line(1)) + " " * 3 * MOST_BYTES + "\n"
    file.write_text(fitting + "\n \n" + too_long + json.dumps(request_line(2)))
    assert [len(raw) for _, raw in lines(file.open("rb"), MOST_BYTES)][:2] == [
        MOST_BYTES,
        MOST_BYTES + 1,
    ]
    total, found = faults(file.open("rb"), CHAT, MOST_BYTES)
    assert total == 3
    assert [(one["line"], one["message"]) for one in found] == [(2, "longer than 4096 bytes")]

    monkeypatch.setattr(batch_lines, "MOST_LINES", 3)
    assert len(faults(file.open("rb"), CHAT, MOST_BYTES)[1]) == 1
    file.write_text("x\n" * 1_000_000)
    total, found = faults(file.open("rb"), CHAT, MOST_BYTES)
    assert total == 4  # no more is read
    assert [one["code"] for one in found] == ["too_many_lines"]


def test_a_batch_that_no_drive_gets_through_fails(
    fleet: Fleet, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error of ours ends the batch, after some attempts, and no other one."""
    fleet.worker()

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(batch_driver, "LOOK_S", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(batch_drive, "faults", broken)
        batch = ended(client, start(client, request_line(0)))
    assert batch.status == "failed"
    assert batch.errors.data[0].code == "internal_error"
    assert ended(client, start(client, request_line(0))).status == "completed"


def test_an_unexpected_error_of_one_line_is_its_answer(
    fleet: Fleet, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(job: Job) -> Script:
        yield from speak(job)

    fleet.worker(script)
    post = batch_drive.post

    async def sometimes(app: Any, path: str, body: bytes, **how: Any) -> Any:
        if b"question 1" in body:
            raise ZeroDivisionError
        return await post(app, path, body, **how)

    monkeypatch.setattr(batch_drive, "post", sometimes)
    batch = ended(client, start(client, request_line(0), request_line(1)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    [row] = rows(client, batch.error_file_id)
    assert row["custom_id"] == "line-1"
    assert row["response"]["status_code"] == 500


def test_output_is_written_in_order_and_never_whole_in_memory(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    store, files = BatchStore(objects), FileStore(objects, 1)
    batch = Batch("batch_0", "t", CHAT, "file-0", "24h", 0, 2**40, "finalizing")
    store.save(batch)
    lines = list(range(40))
    random.Random(3).shuffle(lines)
    for drive, some in (("a", lines[:25]), ("b", lines[20:])):  # five were run by both
        for line in some:
            status = 400 if line % 10 == 0 else 200
            row = Row(line, f"line-{line}", status, f"{drive}-{line}", "x" * 1_000_000)
            store.append(batch.id, drive, [row])
    tracemalloc.start()
    try:
        BatchFiles(batch, files, store, Settings()).write(batch, "completed")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000
    ended = store.get(batch.id)
    assert ended is not None
    for file_id, expected in (
        (ended.output_file_id, [line for line in range(40) if line % 10]),
        (ended.error_file_id, list(range(0, 40, 10))),
    ):
        assert file_id is not None
        with files.open(files.own(file_id, "t")) as file:
            written = [json.loads(line) for line in file]
        assert [one["custom_id"] for one in written] == [f"line-{line}" for line in expected]
        for one in written:
            line = int(one["custom_id"].removeprefix("line-"))
            drive = "a" if line in lines[:25] else "b"
            assert one["response"]["request_id"] == f"{drive}-{line}"


def test_a_batch_that_another_process_has_ended_is_left_alone(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    store, files = BatchStore(objects), FileStore(objects, 1)
    batch = Batch("batch_0", "t", CHAT, "file-0", "24h", 0, 2**40, "finalizing")
    store.append(batch.id, "a", [Row(0, "line-0", 200, "r", {})])
    store.close(batch.to("completed", output_file_id="file-1"))
    BatchFiles(batch, files, store, Settings()).write(batch, "completed")
    ended = store.get(batch.id)
    assert ended is not None
    assert ended.output_file_id == "file-1"
