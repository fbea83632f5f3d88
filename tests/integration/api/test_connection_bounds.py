"""Heads and bodies within bounds of size and time, over plain sockets."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.http import body_reading, connection_limits
from api.http.body_reading import UNCOUNTED_BYTES, UnfinishedBodies
from penstock.contract.job import ChatPrompt
from penstock.errors import Overloaded
from penstock.transport.replies.followers import MOST_READERS
from tests.fixtures.api import WORDS, drone
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from tests.fixtures.api import ApiServer, Fleet

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


class Client(socket.socket):
    """A plain connection to an API."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__()
        self.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        self.settimeout(20)

    def head(self, *lines: str, path: str = CHAT, version: str = "1.1") -> None:
        first = f"POST {path} HTTP/{version}"
        self.sendall("\r\n".join((first, "host: x", *lines, "", "")).encode())

    def rest(self) -> bytes:
        """Return what comes until the other end closes."""
        content = b""
        while piece := self.recv(65_536):
            content += piece
        return content


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api(max_body_bytes=1_000_000, max_unfinished_bytes=300_000)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_S", 0.3)
    monkeypatch.setattr(connection_limits, "UNREAD_S", 0.3)
    monkeypatch.setattr(body_reading, "BODY_S", 0.3)


# -- time


def test_a_connection_that_sends_nothing_is_closed(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        assert client.rest() == b""


def test_a_head_that_never_ends_is_closed(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        for _ in range(3):
            client.sendall(b"x: y\r\n")
            time.sleep(0.05)
        assert client.rest().startswith(b"HTTP/1.1 408 ")


def test_a_further_head_that_never_ends_is_closed(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /hea")
        assert b"HTTP/1.1 408 " in client.rest()


def test_a_stream_outlives_the_bounds_of_its_request(
    short: None, fleet: Fleet, server: ApiServer
) -> None:
    fleet.worker(drone)
    with Client(server) as client:
        content = json.dumps({**BODY, "stream": True}).encode()
        client.head("content-type: application/json", f"content-length: {len(content)}")
        client.sendall(content)
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            assert client.recv(65_536)


def test_a_body_that_never_ends_is_a_408(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        client.head("content-length: 1000")
        for _ in range(3):
            client.sendall(b"{")
            time.sleep(0.05)
        answer = client.rest()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer


def test_an_upload_that_never_ends_is_a_408(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        client.head(
            "content-type: multipart/form-data; boundary=b", "content-length: 1000",
            path="/v1/files",
        )  # fmt: skip
        client.sendall(b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n')
        assert client.rest().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_steadily_has_its_time(
    monkeypatch: pytest.MonkeyPatch, fleet: Fleet, server: ApiServer
) -> None:
    monkeypatch.setattr(body_reading, "BODY_S", 0.5)
    monkeypatch.setattr(body_reading, "LEAST_BYTES_A_SECOND", 100)
    fleet.worker()
    content = json.dumps(BODY).encode() + b" " * 500
    with Client(server) as client:
        client.head(f"content-length: {len(content)}", "connection: close")
        for start in range(0, len(content), 100):
            client.sendall(content[start : start + 100])
            time.sleep(0.2)
        assert client.rest().startswith(b"HTTP/1.1 200 ")


def test_the_rest_of_an_unwanted_body_is_not_waited_for(short: None, server: ApiServer) -> None:
    with Client(server) as client:
        client.head("content-length: 1000", path="/v1/nothing")
        assert client.rest().startswith(b"HTTP/1.1 404 ")


def test_a_head_at_its_bound(server: ApiServer) -> None:
    """Counted in pieces of what the socket gives: such a piece more may be taken."""

    def answer(length: int) -> bytes:
        with Client(server) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: ")
            try:
                for _ in range(length // 1_000):
                    client.sendall(b"y" * 1_000)
                    time.sleep(0.001)
                client.sendall(b"\r\n\r\n")
                return client.rest()
            except OSError:  # it was closed before we were done
                return b""

    assert answer(connection_limits.HEAD_BYTES - 2_000).startswith(b"HTTP/1.1 200 ")
    assert not answer(3 * connection_limits.HEAD_BYTES).startswith(b"HTTP/1.1 200 ")


# -- all together


def test_unfinished_bodies_are_bounded_together_and_small_requests_go_on(
    fleet: Fleet, server: ApiServer
) -> None:
    fleet.worker()
    bodies: UnfinishedBodies = server.app.state.bodies
    piece = b" " * (UNCOUNTED_BYTES + 100_000)
    clients = [Client(server) for _ in range(3)]
    try:
        for number, client in enumerate(clients, 1):
            client.head("content-length: 900000")
            client.sendall(piece)
            wait_until(lambda most=number * 100_000: bodies.total_bytes == most)
        with Client(server) as client:
            client.head("content-length: 900000")
            client.sendall(piece)
            answer = client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b'"code":"overloaded"' in answer
            assert b"retry-after: 1" in answer
        small = httpx.post(f"{server.url}{CHAT}", json=BODY)
        assert small.status_code == 200
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: bodies.total_bytes == 0)


def test_unfinished_bytes_at_their_bound() -> None:
    bodies = UnfinishedBodies(10)
    bodies.add(10)
    with pytest.raises(Overloaded):
        bodies.add(1)
    bodies.remove(10)
    assert bodies.total_bytes == 0


def test_readers_of_one_job(fleet: Fleet, server: ApiServer) -> None:
    fleet.worker(drone)
    key = {"idempotency-key": "one"}
    body = {**BODY, "stream": True, "seed": 1}
    with httpx.Client(base_url=server.url, timeout=20, limits=httpx.Limits()) as client:
        streams = []
        try:
            for _ in range(MOST_READERS):
                stream = client.stream("POST", CHAT, json=body, headers=key)
                streams.append(stream)
                assert stream.__enter__().status_code == 200
            for _ in range(20):
                refused = client.post(CHAT, json=body, headers=key)
                assert refused.status_code == 429
                assert refused.json()["error"]["code"] == "overloaded"
                assert "retry-after" in refused.headers
            assert client.get("/health").status_code == 200
            streams.pop().__exit__(None, None, None)

            def has_room() -> bool:
                with client.stream("POST", CHAT, json=body, headers=key) as again:
                    return again.status_code == 200

            wait_until(has_room)
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)


def test_watchers_of_one_job(fleet: Fleet, server: ApiServer) -> None:
    """All at once: those past the bound get a status, not a stream that ends with an error."""
    fleet.worker(drone)
    statuses: list[int] = []
    done = threading.Event()

    def watch(url: str) -> None:
        with httpx.stream("GET", url, timeout=30) as answer:
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                done.wait(30)

    body = {**BODY, "stream": True, "seed": 1}
    with httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=20) as stream:
        url = f"{server.url}/v1/jobs/{stream.headers['x-penstock-jobs']}/events"
        threads = [threading.Thread(target=watch, args=(url,)) for _ in range(2 * MOST_READERS)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(statuses) == len(threads), 30.0)
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert statuses.count(200) == MOST_READERS - 1  # the client of the job is a reader, too
    assert statuses.count(429) == MOST_READERS + 1


# -- compressed bodies


def packed(content: bytes) -> dict[str, bytes]:
    return {"gzip": gzip.compress(content), "x-gzip": gzip.compress(content),
            "deflate": zlib.compress(content), "identity": content}  # fmt: skip


def send(server: ApiServer, content: bytes, encoding: str, path: str = CHAT) -> httpx.Response:
    return httpx.post(
        f"{server.url}{path}", content=content, timeout=20,
        headers={"content-encoding": encoding, "content-type": "application/json"},
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", "GZIP"])
def test_compressed_bodies(fleet: Fleet, server: ApiServer, encoding: str) -> None:
    fleet.worker()
    content = json.dumps(BODY).encode()
    answer = send(server, packed(content)[encoding.lower()], encoding)
    assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 300])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/worker_generate", "/v1/files"])
def test_other_encodings_are_a_415(server: ApiServer, encoding: str, path: str) -> None:
    answer = send(server, b"x", encoding, path)
    assert answer.status_code == (200 if path == "/worker_generate" else 415) or (
        path == "/worker_generate" and answer.json()["error_code"]
    )
    if path == CHAT:
        assert answer.json()["error"]["code"] == "unsupported_encoding"
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_a_compressed_body_at_its_bound(fleet: Fleet, server: ApiServer) -> None:
    fleet.worker()
    limit = server.settings.max_body_bytes
    content = json.dumps(BODY).encode()
    whole = content + b" " * (limit - len(content))
    assert send(server, gzip.compress(whole), "gzip").status_code == 200
    for over in (1, 300_000_000):
        bomb = gzip.compress(whole + b" " * over, compresslevel=1)
        answer = send(server, bomb, "gzip")
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "content",
    [b"{}", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"x", b""],
    ids=["plain", "cut", "more", "empty"],
)
def test_a_body_that_contradicts_its_header_is_a_400(server: ApiServer, content: bytes) -> None:
    answer = send(server, content, "gzip")
    assert answer.status_code == 400
    assert "compressed" in answer.json()["error"]["message"]


# -- HTTP/1.0


def ask_1_0(server: ApiServer, body: dict[str, Any]) -> tuple[bytes, bytes]:
    content = json.dumps(body).encode()
    with Client(server) as client:
        client.head(f"content-length: {len(content)}", version="1.0")
        client.sendall(content)
        head, _, answer = client.rest().partition(b"\r\n\r\n")
    return head.lower(), answer


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(fleet: Fleet, server: ApiServer) -> None:
    fleet.worker()
    head, answer = ask_1_0(server, {**BODY, "stream": True})
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    events = [line for line in answer.split(b"\n\n") if line]
    assert all(b"data: " in event for event in events)
    assert events[-1] == b"data: [DONE]"


def test_a_client_of_http_1_0_gets_whole_answers_and_errors(
    fleet: Fleet, server: ApiServer
) -> None:
    fleet.worker()
    head, answer = ask_1_0(server, BODY)
    assert f"content-length: {len(answer)}".encode() in head
    assert json.loads(answer)["choices"]
    head, answer = ask_1_0(server, {"model": "tiny"})
    assert head.startswith(b"http/1.1 400 ")
    assert json.loads(answer)["error"]["param"] == "messages"


# -- as OpenAI's server takes them


def test_null_contents_and_whole_floats(fleet: Fleet, server: ApiServer) -> None:
    worker = fleet.worker(tool_parser="hermes")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": None, "tool_call_id": "c"},
    ]
    body = {**BODY, "messages": messages, "max_tokens": 5.0, "n": 1.0, "seed": 7.0}
    answer = httpx.post(f"{server.url}{CHAT}", json=body)
    assert answer.status_code == 200, answer.text
    prompt = worker.jobs[0].work.prompt
    assert isinstance(prompt, ChatPrompt)
    assert [message["content"] for message in prompt.messages] == ["", "", ""]
    assert worker.jobs[0].work.sampling.max_tokens == 5
    for value in (5.5, "5", True, 1e300):
        refused = httpx.post(f"{server.url}{CHAT}", json={**BODY, "max_tokens": value})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "max_tokens"
    without = {"role": "user"}
    refused = httpx.post(f"{server.url}{CHAT}", json={**BODY, "messages": [without]})
    assert refused.json()["error"]["param"] == "messages[0].content"


def test_completions_without_max_tokens_fit_into_the_context(
    fleet: Fleet, server: ApiServer
) -> None:
    worker = fleet.worker()
    for given in ({"max_tokens": None}, {}, {"max_tokens": 16}):
        body = {"model": "tiny", "prompt": "a", **given}
        assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    assert [(job.work.sampling.max_tokens, job.work.fit_context) for job in worker.jobs] == [
        (16, True), (16, True), (16, False),
    ]  # fmt: skip
