"""/v1/files and /v1/batches by OpenAI's SDK, over a real Redis, disk and a scripted worker."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec
import openai
import pytest

from api.openai.batches.driver import sweep_in_turn
from api.openai.batches.file_store import FileStore, safe_name
from api.openai.batches.files import MOST_LISTED, store_of
from api.openai.batches.objects import FolderObjects
from api.openai.batches.store import BatchStore
from penstock.contract.events import Failed, Tokens
from penstock.errors import UnknownObject
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from tests.fixtures.api import WORDS, chat_of, drone, speak
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    from redis.asyncio import Redis as AsyncRedis

    from api.services import Services
    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import ApiServer, Fleet, Script

TEXT = "".join(WORDS)
CHAT = "/v1/chat/completions"


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> ApiServer:
    return fleet.api(files_dir=tmp_path, max_file_bytes=200_000, resume_grace_s=0.5)


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def request_line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}"}]
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "tiny", "messages": messages, **body},
    }


def upload(client: openai.OpenAI, *requests: Any) -> str:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in requests)
    file = ("requests.jsonl", text.encode())
    return client.files.create(file=file, purpose="batch").id


def start(client: openai.OpenAI, *requests: Any, endpoint: Any = CHAT) -> str:
    return client.batches.create(
        input_file_id=upload(client, *requests), endpoint=endpoint, completion_window="24h"
    ).id


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    last: Any = None

    def has_ended() -> bool:
        nonlocal last
        last = client.batches.retrieve(batch_id)
        return last.status in ("completed", "failed", "expired", "cancelled")

    wait_until(has_ended, 30.0)
    return last


def rows(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


# -- files


def test_files(client: openai.OpenAI, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10
    made = client.files.create(file=("../../etc/pass\nwd.bin", content), purpose="user_data")
    assert made.bytes == len(content)
    assert made.filename == "pass%0Awd.bin"
    assert client.files.content(made.id).read() == content
    assert client.files.retrieve(made.id) == made
    other = client.files.create(
        file=("b.jsonl", b"{}"), purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert other.expires_at == other.created_at + 3600
    assert {file.id for file in client.files.list()} == {made.id, other.id}
    assert [file.id for file in client.files.list(purpose="batch")] == [other.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    assert not list((tmp_path / "objects").glob(f"{made.id}*"))


def test_an_uploaded_page_is_no_page(client: openai.OpenAI, server: ApiServer) -> None:
    name = 'x\r\nSet-Cookie: a=b".html'
    file = client.files.create(file=(name, b"<script>1</script>", "text/html"), purpose="batch")
    answer = httpx.get(f"{server.url}/v1/files/{file.id}/content")
    assert answer.content == b"<script>1</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


def test_bad_uploads(client: openai.OpenAI, server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a", b"x" * 300_000), purpose="batch")
    assert caught.value.status_code == 413

    def endless() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield b"y" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{server.url}/v1/files", content=endless(), headers=headers)
    assert answer.status_code == 413
    with pytest.raises(openai.BadRequestError) as bad:
        client.files.create(file=("a", b"x"), purpose=cast("Any", "nonsense"))
    assert bad.value.param == "purpose"
    answer = httpx.post(f"{server.url}/v1/files", data={"purpose": "batch"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    answer = httpx.post(f"{server.url}/v1/files", content=b"junk", headers=headers)
    assert answer.status_code == 400
    for path in ("file-../../x", "..%2f..%2fetc%2fpasswd", "file-" + "0" * 32):
        assert httpx.get(f"{server.url}/v1/files/{path}").status_code == 404
    assert list(client.files.list()) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_list_of_files_at_its_bound(server: ApiServer) -> None:
    listed = f"{server.url}/v1/files?limit={MOST_LISTED}"
    assert httpx.get(listed).status_code == 200
    for limit in (0, MOST_LISTED + 1):
        answer = httpx.get(f"{server.url}/v1/files?limit={limit}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.txt", "a.txt"), ("/etc/passwd", "passwd"), ("..", "file"), ("C:\\x\\y.z", "y.z"),
     ("a\0b\r\n", "ab"), ("", "file"), ("é" * 300, "é" * 255)],
)  # fmt: skip
def test_names(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_expired_files_go(tmp_path: Path) -> None:
    store = FileStore(FolderObjects(tmp_path), 100)
    made = store.add(io.BytesIO(b"x"), tenant="t", filename="a", purpose="batch", expires_after_s=0)
    stays = store.add(io.BytesIO(b"x"), tenant="t", filename="a", purpose="batch")
    store.sweep()
    assert store.cards("t") == [stays]
    assert {path.stem for path in (tmp_path / "objects").iterdir()} == {stays.id}
    with pytest.raises(UnknownObject):
        store.open(made)


async def test_one_process_of_the_fleet_deletes_expired_files_at_a_time(
    async_redis: AsyncRedis, redis_settings: Settings, tmp_path: Path
) -> None:
    settings = redis_settings.model_copy(update={"files_dir": tmp_path})
    services = cast("Services", SimpleNamespace(redis=async_redis, settings=settings))

    async def left() -> int:
        """Look at what is left of an expired file."""
        store_of(settings).add(
            io.BytesIO(b""), tenant="t", filename="a", purpose="batch", expires_after_s=0
        )
        await sweep_in_turn(services)
        return len(list((tmp_path / "objects").iterdir()))

    assert await left() == 0
    assert await left() == 2  # its card, too
    await async_redis.delete(keys.lease("files"))
    assert await left() == 0


# -- batches


def test_a_batch(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        if "question 3" in str(chat_of(job).messages):
            yield Failed(job.id, 0, "context_length_exceeded", "too long")
        yield from speak(job)

    worker = fleet.worker(script)
    requests = [request_line(number) for number in range(20)]
    requests[5]["body"]["model"] = "none"
    batch_id = start(client, *requests, "", "  ")
    batch = ended(client, batch_id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 18, 2)
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at
    good = rows(client, batch.output_file_id)
    assert [row["custom_id"] for row in good] == [
        f"line-{number}" for number in range(20) if number not in (3, 5)
    ]
    body = good[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == TEXT
    assert good[0]["response"]["status_code"] == 200
    bad = rows(client, batch.error_file_id)
    assert [row["response"]["status_code"] for row in bad] == [400, 404]
    assert bad[0]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert {job.priority for job in worker.jobs} == {9}
    assert [one.id for one in client.batches.list()] == [batch_id]
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch_id)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "a"}),
        ("/v1/responses", {"model": "tiny", "input": "a"}),
    ],
)
def test_other_endpoints(
    fleet: Fleet, client: openai.OpenAI, endpoint: Any, body: dict[str, Any]
) -> None:
    fleet.worker()
    line = {**request_line(0), "url": endpoint, "body": body}
    batch = ended(client, start(client, line, endpoint=endpoint))
    [row] = rows(client, batch.output_file_id)
    assert TEXT in json.dumps(row["response"]["body"])


def test_bad_batches(client: openai.OpenAI) -> None:
    batch = ended(
        client,
        start(
            client,
            request_line(0),
            request_line(0),
            "{",
            {**request_line(1), "method": "GET"},
            {**request_line(2), "url": "/v1/completions"},
            request_line(3, stream=True),
            {**request_line(4), "body": {}},
            {"custom_id": 4},
        ),
    )
    assert batch.status == "failed"
    assert [error.line for error in batch.errors.data] == [2, 3, 4, 5, 6, 7, 8]
    assert batch.errors.data[0].code == "duplicate_custom_id"
    assert ended(client, start(client, "")).errors.data[0].code == "empty_file"
    file_id = upload(client, request_line(0))
    for fields, param in (
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"input_file_id": "file-x"}, "input_file_id"),
        ({"completion_window": "1h"}, "completion_window"),
    ):
        asked: Any = {
            "input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields,
        }  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(**asked)
        assert caught.value.param == param
    image = client.files.create(file=("a", b"x"), purpose="vision").id
    with pytest.raises(openai.BadRequestError):
        client.batches.create(input_file_id=image, endpoint=CHAT, completion_window="24h")


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def test_cancelling(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        number = int(chat_of(job).messages[0]["content"].split()[-1])
        yield from speak(job) if number < 3 else drone(job)

    worker = fleet.worker(script)
    batch_id = start(client, *(request_line(number) for number in range(6)))
    wait_until(lambda: completed(client, batch_id) == 3)
    assert client.batches.cancel(batch_id).status == "cancelling"
    batch = ended(client, batch_id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    assert len(rows(client, batch.output_file_id)) == 3
    assert batch.error_file_id is None
    wait_until(lambda: len(worker.dropped) == 3)  # what ran is given up


def test_an_expired_batch_keeps_what_is_done(
    fleet: Fleet, client: openai.OpenAI, tmp_path: Path
) -> None:
    def script(job: Job) -> Script:
        first = "question 0" in str(chat_of(job).messages)
        yield from speak(job) if first else drone(job)

    fleet.worker(script)
    batch_id = start(client, request_line(0), request_line(1))
    wait_until(lambda: completed(client, batch_id) == 1)
    # Its day is over. The driver has the card in memory, so it is another process's turn.
    store = BatchStore(FolderObjects(tmp_path))
    found = store.get(batch_id)
    assert found is not None
    fleet._apis[0].stop()
    store.save(msgspec.structs.replace(found, expires_s=int(time.time())))
    other = fleet.api(files_dir=tmp_path, resume_grace_s=0.5)
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none", max_retries=0) as second:
        batch = ended(second, batch_id)
        assert batch.status == "expired"
        assert len(rows(second, batch.output_file_id)) == 1
        [late] = rows(second, batch.error_file_id)
        assert late["error"]["code"] == "batch_expired"
        assert late["custom_id"] == "line-1"


def test_another_process_takes_over(
    fleet: Fleet, client: openai.OpenAI, server: ApiServer, tmp_path: Path
) -> None:
    gate = threading.Event()

    def script(job: Job) -> Script:
        number = int(chat_of(job).messages[0]["content"].split()[-1])
        for event in speak(job):
            yield event
            while number >= 4 and not gate.is_set():
                yield None

    worker = fleet.worker(script, slots=16)  # lines may come to the queue in any order
    batch_id = start(client, *(request_line(number) for number in range(10)))
    wait_until(lambda: completed(client, batch_id) == 4, 30.0)
    wait_until(lambda: len(worker.running) == 6, 30.0)
    under_way = {job.id for job in worker.jobs}
    server.stop()
    other = fleet.api(files_dir=tmp_path)
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none", max_retries=0) as second:
        assert second.batches.retrieve(batch_id).status == "in_progress"
        gate.set()
        batch = ended(second, batch_id)
        assert batch.request_counts.completed == 10
        assert len(rows(second, batch.output_file_id)) == 10
    assert under_way <= {job.id for job in worker.jobs}
    assert batch.status == "completed"


def test_two_processes_after_a_lost_lease(
    fleet: Fleet, client: openai.OpenAI, tmp_path: Path, redis_client: redis.Redis
) -> None:
    gate = threading.Event()

    def script(job: Job) -> Script:
        for event in speak(job):
            while not gate.is_set():
                yield None
            yield event

    worker = fleet.worker(script, slots=16)
    fleet.api(files_dir=tmp_path)
    batch_id = start(client, request_line(0))
    wait_until(lambda: worker.running, 30.0)
    before = redis_client.get(keys.lease(batch_id))
    redis_client.delete(keys.lease(batch_id))
    wait_until(lambda: redis_client.get(keys.lease(batch_id)) not in {None, before}, 30.0)
    gate.set()  # the first driver may not know yet that it has lost the batch
    assert len(rows(client, ended(client, batch_id).output_file_id)) == 1
    wait_until(lambda: not redis_client.exists(keys.lease(batch_id)), 30.0)
    assert client.batches.retrieve(batch_id).output_file_id


def test_one_process_drives(fleet: Fleet, client: openai.OpenAI, tmp_path: Path) -> None:
    fleet.api(files_dir=tmp_path)
    fleet.api(files_dir=tmp_path)
    worker = fleet.worker()
    batch = ended(client, start(client, *(request_line(number) for number in range(30))))
    assert batch.request_counts.completed == 30
    assert len(worker.jobs) == 30  # no line was run twice


def test_a_full_queue_is_waited_for(fleet: Fleet, tmp_path: Path) -> None:
    server = fleet.api(files_dir=tmp_path, max_waiting_jobs=2)
    fleet.worker(slots=1)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        batch = ended(client, start(client, *(request_line(number) for number in range(4))))
    assert (batch.status, batch.request_counts.completed) == ("completed", 4)


def test_a_job_that_was_cancelled_is_run_again(fleet: Fleet, client: openai.OpenAI) -> None:
    jobs: list[str] = []

    def script(job: Job) -> Script:
        jobs.append(job.id)
        if len(jobs) == 1:
            yield Tokens(job.id, 0, (1,), "a")
            yield Failed(job.id, 1, "cancelled", "the job was cancelled")
        yield from speak(job)

    fleet.worker(script)
    batch = ended(client, start(client, request_line(0)))
    assert (batch.request_counts.completed, len(set(jobs))) == (1, 2)


def test_keys(
    fleet: Fleet, tmp_path: Path, redis_client: redis.Redis, request: pytest.FixtureRequest
) -> None:
    desk = KeyDesk(redis_client, 5.0)
    request.addfinalizer(lambda: redis_client.delete(keys.API_KEYS))
    card, ann = desk.make("ann", models=("other",))
    _, bob = desk.make("bob")
    server = fleet.api(files_dir=tmp_path)
    worker = fleet.worker()
    url = f"{server.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key=ann, max_retries=0) as first,
        openai.OpenAI(base_url=url, api_key=bob, max_retries=0) as second,
    ):
        batch = ended(first, start(first, request_line(0)))
        [row] = rows(first, batch.error_file_id)
        assert row["response"]["status_code"] == 403  # the key's models are a batch's too
        for call in (
            lambda: second.batches.retrieve(batch.id),
            lambda: second.batches.cancel(batch.id),
            lambda: second.files.content(batch.error_file_id),
            lambda: second.files.delete(batch.input_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert list(second.batches.list()) == []
        done = ended(second, start(second, request_line(0)))
        assert done.request_counts.completed == 1
    assert card.id not in {job.tenant for job in worker.jobs}


class FullDisk:
    """Lets so many writes through to the disk; then it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._genuine = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, file: int) -> None:
        if self.room is not None:
            if self.room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= 1
        self._genuine(file)


def test_a_full_disk_takes_nothing_and_keeps_nothing(
    client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    for disk.room in (0, 1):
        with pytest.raises(openai.InternalServerError, match="No space left") as refused:
            upload(client, request_line(0))
        assert (refused.value.status_code, refused.value.code) == (503, "store_unavailable")
        assert not list((tmp_path / "objects").iterdir())
    disk.room = None
    file_id = upload(client, request_line(0))
    disk.room = 0
    with pytest.raises(openai.InternalServerError, match="No space left"):
        client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    assert not list((tmp_path / "batches").glob("batch_*"))
    assert not list((tmp_path / "batches").glob("open/*"))
