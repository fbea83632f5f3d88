"""A FastChat worker that answers without an end, slowly, compressed or with nonsense costs little."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.fastchat import peer_http, peers, relay
from api.fastchat.registration import LONGEST_NAME, MOST_LOAD, MOST_MODELS, status_of
from tests.fixtures.processes import wait_until
from tests.integration.api.fastchat.test_fastchat_peers import (
    HERE,
    TheirWorker,
    join,
    models,
    post,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fixtures.api import Fleet

MIB = 1024 * 1024


class Evil:
    """A server of one answer, written by the test; a None closes nothing and says nothing more."""

    def __init__(self, answer: Callable[[bytes], Iterator[bytes]]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.sent_bytes = 0
        self._stop = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with connection:
            try:
                head = connection.recv(65_536)
                for piece in self._answer(head):
                    if self._stop.is_set():
                        return
                    connection.sendall(piece)
                    self.sent_bytes += len(piece)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):  # closing under what still comes would cut it off
                    pass
            except OSError:
                pass

    def stop(self) -> None:
        self._stop.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def evil() -> Iterator[Callable[..., Evil]]:
    started: list[Evil] = []

    def start(answer: Callable[[bytes], Iterator[bytes]]) -> Evil:
        started.append(Evil(answer))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def head(*more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "content-type: application/json", "connection: close", *more]
    return "\r\n".join((*lines, "", "")).encode()


def endless(_: bytes) -> Iterator[bytes]:
    yield head()
    while True:
        yield b" " * MIB


def bomb(_: bytes) -> Iterator[bytes]:
    content = gzip.compress(b" " * 300 * MIB)
    yield head("content-encoding: gzip", f"content-length: {len(content)}") + content


def trickle(_: bytes) -> Iterator[bytes]:
    yield head()
    while True:
        yield b" "
        time.sleep(0.05)


def slow_head(_: bytes) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"x: y\r\n"
        time.sleep(0.05)


def deep(_: bytes) -> Iterator[bytes]:
    yield head() + b"[" * 100_000


@pytest.mark.parametrize("answer", [endless, bomb, trickle, slow_head, deep])
def test_a_registration_ends_in_time_and_memory(
    fleet: Fleet, evil: Callable[..., Evil], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(peers, "STATUS_S", 0.5)
    worker = evil(answer)
    server = fleet.api(fastchat_worker_hosts=HERE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.monotonic()
    body = {"worker_name": worker.url, "check_heart_beat": True, "worker_status": None}
    refusal = post(server, "/register_worker", body).json()
    assert "does not answer as a FastChat worker" in refusal["text"]
    assert time.monotonic() - began_s < 5
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # The bomb of 300 MiB is made in this process, packed: its text is no part of what we hold.
    assert grown < (400 if answer is bomb else 60) * 1024
    assert worker.sent_bytes < 40 * MIB


def test_others_are_probed_while_one_trickles(
    fleet: Fleet, evil: Callable[..., Evil], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "STATUS_S", 0.4)
    monkeypatch.setattr(peers, "PROBE_S", 0.1)
    server = fleet.api(fastchat_worker_hosts=HERE)
    good = TheirWorker()
    try:
        bad = evil(trickle)
        join(server, good)
        body = {"model_names": ["evil"], "speed": 1, "queue_length": 0}
        post(server, "/register_worker", {"worker_name": bad.url, "worker_status": body})
        assert models(server) == ["evil", "theirs"]
        wait_until(lambda: models(server) == ["theirs"], 20)  # silent three times in a row
    finally:
        good.stop()


def stream_of(*pieces: bytes, pause_s: float = 0.0) -> Callable[[bytes], Iterator[bytes]]:
    def answer(request: bytes) -> Iterator[bytes]:
        if b"/worker_generate_stream" not in request:
            yield head() + b'{"context_length": 100}'
            return
        yield head()
        for piece in pieces:
            yield piece
            time.sleep(pause_s)

    return answer


FIRST = json.dumps({"text": "one", "error_code": 0}).encode() + b"\0"


def asked(fleet: Fleet, worker: Evil, **settings: Any) -> Any:
    server = fleet.api(fastchat_worker_hosts=HERE, **settings)
    name = f"evil-{worker.url[-5:]}"
    status = {"model_names": [name], "speed": 1, "queue_length": 0}
    post(server, "/register_worker", {"worker_name": worker.url, "worker_status": status})
    body = {"model": name, "prompt": "hi", "stream": False, "max_tokens": 5}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)


def test_a_stream_of_one_object_without_an_end(
    fleet: Fleet, evil: Callable[..., Evil], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_http, "OBJECT_BYTES", 1_000)
    whole = json.dumps({"text": "x" * 900, "error_code": 0, "finish_reason": "stop"}).encode()
    fits = whole + b" " * (1_000 - len(whole))
    answer = asked(fleet, evil(stream_of(fits, b"\0")))
    assert answer.json()["choices"][0]["text"] == "x" * 900
    answer = asked(fleet, evil(stream_of(FIRST, fits + b" ")))
    assert answer.status_code == 500
    assert "an object is over 1000 bytes" in answer.json()["error"]["message"]


def test_a_stream_that_trickles_has_been_silent(fleet: Fleet, evil: Callable[..., Evil]) -> None:
    worker = evil(stream_of(FIRST, *[b" "] * 1_000, pause_s=0.05))
    began_s = time.monotonic()
    answer = asked(fleet, worker, fastchat_worker_timeout_s=0.5)
    assert answer.status_code == 504
    assert time.monotonic() - began_s < 10


def test_a_stream_without_an_end_ends_at_the_deadline(
    fleet: Fleet, evil: Callable[..., Evil]
) -> None:
    worker = evil(stream_of(*[FIRST] * 1_000, pause_s=0.05))
    began_s = time.monotonic()
    assert asked(fleet, worker, deadline_s=1.0).status_code == 504
    assert time.monotonic() - began_s < 10


def test_a_compressed_stream_is_refused(fleet: Fleet, evil: Callable[..., Evil]) -> None:
    def answer(request: bytes) -> Iterator[bytes]:
        assert b"accept-encoding: identity" in request.lower()
        yield head("content-encoding: gzip") + gzip.compress(FIRST)

    refused = asked(fleet, evil(answer))
    assert refused.status_code == 500
    assert "is compressed" in refused.json()["error"]["message"]


@pytest.mark.parametrize("count", [-5, 10**12])
def test_counts_are_within_bounds(fleet: Fleet, evil: Callable[..., Evil], count: int) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    last = {"text": "one", "error_code": 0, "usage": usage, "finish_reason": "stop"}
    answer = asked(fleet, evil(stream_of(json.dumps(last).encode() + b"\0")))
    expected = 0 if count < 0 else relay.MOST_TOKENS
    assert answer.json()["usage"]["prompt_tokens"] == expected


def test_nonsense_deep_inside_an_object(fleet: Fleet, evil: Callable[..., Evil]) -> None:
    last = b'{"text": "one", "more": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\0"
    answer = asked(fleet, evil(stream_of(last)))
    assert answer.status_code == 500
    assert "does not speak its protocol" in answer.json()["error"]["message"]


def test_a_status_at_its_bounds() -> None:
    def status(**fields: Any) -> dict[str, Any]:
        return {"model_names": ["m"], "speed": 1, "queue_length": 0, **fields}

    status_of(status(model_names=["m" * LONGEST_NAME] * MOST_MODELS))
    status_of(status(speed=MOST_LOAD, queue_length=MOST_LOAD))
    for fields in (
        {"model_names": ["m"] * (MOST_MODELS + 1)},
        {"model_names": ["m" * (LONGEST_NAME + 1)]},
        {"model_names": [""]},
        {"speed": MOST_LOAD + 1},
        {"speed": float("nan")},
        {"queue_length": -1},
        {"queue_length": MOST_LOAD + 1},
        {"queue_length": "many"},
    ):
        with pytest.raises(ValueError, match=r".+"):
            status_of(status(**fields))


def test_a_registration_at_its_bounds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fleet.api(fastchat_worker_hosts=HERE)

    def register(port: int, **fields: Any) -> Any:
        status = {"model_names": ["m"], "speed": 1, "queue_length": 0, **fields}
        name = f"http://127.0.0.1:{port}"
        return post(server, "/register_worker", {"worker_name": name, "worker_status": status})

    assert register(1, model_names=["m" * LONGEST_NAME] * MOST_MODELS).json() is None
    for fields in (
        {"model_names": ["m"] * (MOST_MODELS + 1)},
        {"model_names": ["m" * (LONGEST_NAME + 1)]},
        {"queue_length": MOST_LOAD + 1},
    ):
        assert "error_code" in register(2, **fields).json()
    monkeypatch.setattr(peers, "MOST_WORKERS", 2)
    assert register(2).json() is None
    assert register(2).json() is None  # it is there already
    assert "that is the most" in register(3).json()["text"]


def test_a_small_answer_at_its_bound(fleet: Fleet, evil: Callable[..., Evil]) -> None:
    def answer(size: int) -> Callable[[bytes], Iterator[bytes]]:
        def write(_: bytes) -> Iterator[bytes]:
            yield head() + b"[1" + b" " * (size - 3) + b"]"

        return write

    async def call(size: int) -> Any:
        async with peer_http.client() as http:
            return await peer_http.call(
                http, evil(answer(size)).url, None, total_s=5, most_bytes=1_000
            )

    assert asyncio.run(call(1_000)) == [1]
    with pytest.raises(httpx.DecodingError, match="over 1000 bytes"):
        asyncio.run(call(1_001))
