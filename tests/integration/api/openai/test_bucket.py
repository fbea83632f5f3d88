"""Files and batches in S3-compatible storage: two API processes share them without a disk."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from api.openai.batches.answers import Stream
from api.openai.batches.file_store import FileStore
from api.openai.batches.objects import FolderObjects, sorted_names
from api.openai.batches.storage import objects_of
from api.openai.batches.store import BatchStore
from penstock.errors import BadSettings, BodyTooLarge, StoreUnavailable
from penstock.settings import Settings
from tests.fixtures.redis import find_free_port
from tests.integration.api.openai.test_batches_api import ended, request_line, rows, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from api.openai.batches.objects import Objects
    from tests.fixtures.api import Fleet

BUCKET = "penstock"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server of its own, with one empty bucket."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", find_free_port(), verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield url
    server.stop()


@pytest.fixture
def settings(endpoint: Any, request: pytest.FixtureRequest) -> Settings:
    return Settings(files_url=f"s3://{BUCKET}/{request.node.name}", files_endpoint=endpoint)


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return FolderObjects(tmp_path)
    return objects_of(request.getfixturevalue("settings"))


def test_both_storages_do_the_same(objects: Objects) -> None:
    assert objects.get("a/b") is None
    assert objects.open("a/b") is None
    assert sorted_names(objects, "a/") == []
    objects.put("a/b", b"one")
    objects.put("a/b", b"two")
    assert objects.put_from("a/c", io.BytesIO(b"three"), 5) == 5
    with pytest.raises(BodyTooLarge):
        objects.put_from("a/d", io.BytesIO(b"three"), 4)
    for piece in (b"x\n", b"y\n"):
        objects.append("a/rows.1", piece)
    assert objects.get("a/b") == b"two"
    assert sorted_names(objects, "a/")[:2] == ["a/b", "a/c"]
    pieces = sorted_names(objects, "a/rows.")
    assert b"".join(objects.get(name) or b"" for name in pieces) == b"x\ny\n"
    file = objects.open("a/c")
    assert file is not None
    with file:
        assert file.read() == b"three"
    objects.delete(*sorted_names(objects, "a/"), "a/none")
    assert sorted_names(objects, "") == []
    objects.sweep()


def test_what_is_made_while_it_is_stored_comes_in_parts(objects: Objects) -> None:
    pieces = [bytes([number]) * 1_000_003 for number in range(20)]
    made: list[int] = []

    def making() -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            made.append(number)
            yield piece

    source = io.BufferedReader(Stream(making()))
    assert objects.put_from("a/output", source, None) == sum(map(len, pieces))
    assert made == list(range(20))
    assert objects.get("a/output") == b"".join(pieces)


def test_what_cannot_be_made_whole_is_not_stored(objects: Objects) -> None:
    def failing() -> Iterator[bytes]:
        yield b"x" * 20_000_000
        raise StoreUnavailable("the storage is away")

    with pytest.raises(StoreUnavailable):
        objects.put_from("a/output", io.BufferedReader(Stream(failing())), None)
    assert objects.get("a/output") is None
    assert sorted_names(objects, "") == []


def test_parts_of_a_dead_process_go(settings: Settings, endpoint: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    name = f"{settings.files_url.split('/', 3)[3]}/a/output" if settings.files_url else ""
    client.create_multipart_upload(Bucket=BUCKET, Key=name)
    assert "Uploads" in client.list_multipart_uploads(Bucket=BUCKET)
    objects_of(settings).sweep()  # this server says of every upload that it began years ago
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    client.close()


def test_a_file_is_bounded_and_forgotten(objects: Objects) -> None:
    store = FileStore(objects, 4)
    with pytest.raises(BodyTooLarge):
        store.add(io.BytesIO(b"12345"), tenant="t", filename="a", purpose="batch")
    assert store.cards("t") == []
    card = store.add(io.BytesIO(b"1234"), tenant="t", filename="a", purpose="batch")
    assert store.cards("t") == [card]
    store.add(io.BytesIO(b"1"), tenant="t", filename="a", purpose="batch", expires_after_s=0)
    store.sweep()
    assert store.cards("t") == [card]
    store.delete(card)
    assert sorted_names(objects, "") == []


def test_a_request_at_one_process_sees_what_another_stored(
    fleet: Fleet, settings: Settings
) -> None:
    shared = {"files_url": settings.files_url, "files_endpoint": settings.files_endpoint}
    servers = [fleet.api(**shared) for _ in range(2)]
    fleet.worker()
    first, second = (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for server in servers
    )
    with first, second:
        content = b"x" * 3_000_000  # more than starlette keeps in memory
        made = first.files.create(file=("größe.bin", content), purpose="user_data")
        assert second.files.content(made.id).read() == content
        assert [file.id for file in second.files.list()] == [made.id]
        assert (
            "gr%C3%B6%C3%9Fe.bin"
            in (
                httpx.get(f"{servers[1].url}/v1/files/{made.id}/content").headers[
                    "content-disposition"
                ]
            )
        )
        batch_id = start(first, *(request_line(number) for number in range(5)))
        batch = ended(second, batch_id)
        assert (batch.status, batch.request_counts.completed) == ("completed", 5)
        assert len(rows(second, batch.output_file_id)) == 5
        assert [one.id for one in second.batches.list()] == [batch_id]
        second.files.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            first.files.content(made.id)
    assert BatchStore(objects_of(settings)).open_ids() == []


def test_storage_that_is_away_or_refuses_is_a_503(fleet: Fleet, endpoint: str) -> None:
    for url, where in (
        ("s3://no-such-bucket", endpoint),
        (f"s3://{BUCKET}", f"http://127.0.0.1:{find_free_port()}"),
    ):
        server = fleet.api(files_url=url, files_endpoint=where)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError, match="storage of files") as away:
                client.files.create(file=("a", b"x"), purpose="user_data")
            assert (away.value.status_code, away.value.code) == (503, "store_unavailable")


def test_without_the_library_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(BadSettings, match=r"penstock\[s3\]"):
        objects_of(Settings(files_url="s3://bucket-without-library"))


@pytest.mark.parametrize("url", ["http://bucket", "s3://", "s3://UPPER/x", "bucket"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="files_url"):
        Settings(files_url=url)


def test_calls_to_storage_that_is_away_end(tmp_path: Path) -> None:
    away: Any = f"http://127.0.0.1:{find_free_port()}"
    settings = Settings(files_url=f"s3://{BUCKET}", files_endpoint=away)
    with pytest.raises(StoreUnavailable):
        sorted_names(objects_of(settings), "")
