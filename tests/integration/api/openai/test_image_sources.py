"""Images that are not in a request's body: files of the caller's, URLs; and images in batches."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.openai import image_sources
from penstock import image_bytes
from penstock.contract.job import TextPrompt
from penstock.contract.worker import IMAGES
from penstock.transport.jobs.images import digest_of
from tests.fixtures.api import chat_of
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.api import ApiServer, Fleet, ScriptedWorker

pytest.importorskip("PIL", reason="Pillow is not installed")

PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAAAAACwAAAAAAQABAAACAkQBADs=")
OTHER = base64.b64decode("R0lGODlhAgABAIAAAAAAAAAAACwAAAAAAgABAAACAkQBADs=")
BOTH = {"a": "Bearer key-a", "b": "Bearer key-b"}


class Site(BaseHTTPRequestHandler):
    """Serves the image at /pixel, and text elsewhere."""

    def do_GET(self) -> None:
        content = PIXEL if self.path == "/pixel" else b"no image"
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> ApiServer:
    return fleet.api(files_dir=tmp_path, image_hosts=("127.0.0.1",), api_keys=("key-a", "key-b"))


@pytest.fixture
def worker(server: ApiServer, fleet: Fleet) -> ScriptedWorker:
    del server
    return fleet.worker(capabilities=("generate", IMAGES))


def post(server: ApiServer, path: str, key: str = "a", **body: Any) -> httpx.Response:
    headers = {"authorization": BOTH[key]}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=20.0)


def upload(server: ApiServer, content: bytes, purpose: str = "vision") -> str:
    answer = httpx.post(
        f"{server.url}/v1/files", files={"file": ("a.gif", content)}, data={"purpose": purpose},
        headers={"authorization": BOTH["a"]}, timeout=20.0,
    )  # fmt: skip
    return answer.json()["id"]


def chat(*urls: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]


def response(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    images = [{"type": "input_image", **part} for part in parts]
    return [{"role": "user", "content": [*images, {"type": "input_text", "text": "what?"}]}]


def test_files(server: ApiServer, worker: ScriptedWorker) -> None:
    file_id = upload(server, PIXEL)
    given = response({"file_id": file_id, "detail": "low"})
    answer = post(server, "/v1/responses", model="tiny", input=given)
    assert answer.status_code == 200, answer.text
    assert chat_of(worker.jobs[-1]).images == [digest_of(PIXEL)]
    # The next turn reads it again, from what is stored.
    more = post(
        server, "/v1/responses", model="tiny", input="and?",
        previous_response_id=answer.json()["id"],
    )  # fmt: skip
    assert more.status_code == 200, more.text
    assert chat_of(worker.jobs[-1]).images == [digest_of(PIXEL)]

    source = {"type": "file", "file_id": file_id}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": content}]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 9, "messages": messages}
    assert post(server, "/v1/messages", **asked).status_code == 200
    assert chat_of(worker.jobs[-1]).images == [digest_of(PIXEL)]

    count = len(worker.jobs)
    foreign = post(server, "/v1/responses", "b", model="tiny", input=given)
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (404, "input")
    for wrong in ("file-nothing", "../../etc/passwd", ""):
        answer = post(server, "/v1/responses", model="tiny", input=response({"file_id": wrong}))
        assert answer.status_code == 404, answer.text
    text = response({"file_id": upload(server, b"no image")})
    assert post(server, "/v1/responses", model="tiny", input=text).status_code == 400
    assert len(worker.jobs) == count


def test_urls(server: ApiServer, worker: ScriptedWorker, site: str) -> None:
    url = f"{site}/pixel"
    answer = post(server, "/v1/chat/completions", model="tiny", messages=chat(url, url))
    assert answer.status_code == 200, answer.text
    assert chat_of(worker.jobs[-1]).images == [digest_of(PIXEL)] * 2
    given = response({"image_url": url})
    assert post(server, "/v1/responses", model="tiny", input=given).status_code == 200
    fastchat = {"model": "tiny", "prompt": "$$<image>$$what?", "images": [url], "echo": False}
    assert post(server, "/worker_generate", **fastchat).json()["error_code"] == 0
    prompt = worker.jobs[-1].work.prompt
    assert isinstance(prompt, TextPrompt)
    assert prompt.images == (digest_of(PIXEL),)
    for wrong in (f"{site}/text", "http://127.0.0.1:1/", "http://localhost/", "http://"):
        refused = post(server, "/v1/chat/completions", model="tiny", messages=chat(wrong))
        assert refused.status_code == 400, wrong
        assert refused.json()["error"]["param"] == "messages[0].content[0]"


def test_urls_of_hosts_that_are_not_listed(fleet: Fleet, site: str) -> None:
    server, worker = fleet.api(), fleet.worker(capabilities=("generate", IMAGES))
    refused = post(server, "/v1/chat/completions", model="tiny", messages=chat(f"{site}/pixel"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_feature")
    assert "data: URL" in refused.json()["error"]["message"]
    assert worker.jobs == []


def test_images_that_are_too_large_together(
    server: ApiServer, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [upload(server, PIXEL), upload(server, OTHER)]
    monkeypatch.setattr(image_sources, "ELSEWHERE_BYTES", len(PIXEL) + len(OTHER))
    given = response(*({"file_id": one} for one in ids))
    assert post(server, "/v1/responses", model="tiny", input=given).status_code == 200
    assert chat_of(worker.jobs[-1]).images == [digest_of(PIXEL), digest_of(OTHER)]
    monkeypatch.setattr(image_sources, "ELSEWHERE_BYTES", len(PIXEL) + len(OTHER) - 1)
    refused = post(server, "/v1/responses", model="tiny", input=given)
    assert refused.status_code == 400
    assert "too large together" in refused.json()["error"]["message"]


def test_images_are_checked_outside_the_event_loop(
    server: ApiServer, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    check = image_bytes.check

    def noted(data: bytes, param: str) -> None:
        threads.append(threading.current_thread().name)
        check(data, param)

    monkeypatch.setattr(image_bytes, "check", noted)
    inside = f"data:image/gif;base64,{base64.b64encode(OTHER).decode()}"
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": chat(inside, inside)},
        "/v1/responses": {"input": response({"image_url": inside})},
        "/worker_generate": {
            "prompt": "$$<image>$$what?",
            "images": [inside.partition(",")[2]],
            "echo": False,
        },
    }
    for path, body in asked.items():
        count = len(threads)
        answer = post(server, path, model="tiny", **body)
        assert answer.status_code == 200, answer.text
        assert threads[count:]
        assert all(name.startswith("images") for name in threads[count:])
    assert len(worker.jobs) == len(asked)


def test_batches(server: ApiServer, worker: ScriptedWorker, site: str) -> None:
    inside = f"data:image/gif;base64,{base64.b64encode(OTHER).decode()}"
    bodies = {
        "/v1/chat/completions": [chat(inside), chat(f"{site}/pixel"), chat(f"{site}/text")],
        "/v1/responses": [response({"file_id": upload(server, PIXEL)}), response({"file_id": "x"})],
    }
    for path, inputs in bodies.items():
        field = "messages" if "chat" in path else "input"
        lines = [
            {"custom_id": str(number), "method": "POST", "url": path,
             "body": {"model": "tiny", field: one}}
            for number, one in enumerate(inputs)
        ]  # fmt: skip
        text = "\n".join(map(json.dumps, lines)).encode()
        batch = post(
            server, "/v1/batches", input_file_id=upload(server, text, "batch"), endpoint=path,
            completion_window="24h",
        ).json()  # fmt: skip
        counts = ended(server, batch["id"])["request_counts"]
        assert (counts["completed"], counts["failed"]) == (len(inputs) - 1, 1)
    digests = [image for job in worker.jobs for image in chat_of(job).images]
    assert sorted(digests) == sorted([digest_of(OTHER), digest_of(PIXEL), digest_of(PIXEL)])


def ended(server: ApiServer, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = {}

    def has_ended() -> bool:
        nonlocal batch
        url = f"{server.url}/v1/batches/{batch_id}"
        batch = httpx.get(url, headers={"authorization": BOTH["a"]}, timeout=20.0).json()
        return batch["status"] in ("completed", "failed", "expired", "cancelled")

    wait_until(has_ended, 30.0)
    return batch
