"""What no HTTP library would send, straight into the socket."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from penstock.contract.events import Tokens
from tests.fixtures.jobs import wait_until
from tests.fuzz.conftest import BODY_LIMIT

if TYPE_CHECKING:
    from penstock.contract.job import Job
    from tests.fixtures.api import Script
    from tests.fuzz.conftest import Target

MUTATIONS = 40 * int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
REST_S = 0.4
ANSWER_S = 10.0
GOOD = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 2}).encode()


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/completions") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"host: x", b"content-type: application/json"]
    if not any(header.lower().startswith((b"content-l", b"transfer-e")) for header in headers):
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*head, *headers, b"connection: close", b"", body])


def chunked(*chunks: bytes) -> bytes:
    return post(b"".join(chunks), b"transfer-encoding: chunked")


def prompt(text: bytes) -> bytes:
    return b'{"model": "tiny", "max_tokens": 1, "prompt": ' + text + b"}"


CLIENT_FAULTS = {
    "body is not UTF-8": post(b'{"model": "tiny", "prompt": "\xff\xfe\xc3"}'),
    "body is no JSON": post(b"\x00\x01\x02"),
    "lone surrogate": post(prompt(b'"\\ud800"')),
    "deep lists": post(b"[" * 100_000),
    "deep lists in a field": post(prompt(b"[" * 50_000 + b"]" * 50_000)),
    "deep objects": post(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "number beyond all bounds": post(b'{"model": "tiny", "prompt": "a", "max_tokens": 1e999}'),
    "integer of 10,000 digits": post(
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 10_000 + b"}"
    ),
    "not a number": post(b'{"model": "tiny", "prompt": "a", "temperature": NaN}'),
    "too large by its length": post(b" " * (BODY_LIMIT + 1)),
    "too large in chunks": chunked(
        *[b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(6)], b"0\r\n\r\n"
    ),
    "length is negative": post(GOOD, b"content-length: -5"),
    "length is no number": post(GOOD, b"content-length: many"),
    "length of 100 digits": post(GOOD, b"content-length: " + b"9" * 100),
    "two lengths": post(GOOD, b"content-length: 3", b"content-length: 70"),
    "length and chunks": post(GOOD, b"content-length: 3", b"transfer-encoding: chunked"),
    "chunk size is no number": chunked(b"zz\r\nhello\r\n0\r\n\r\n"),
    "chunk size beyond all bounds": chunked(b"f" * 40 + b"\r\nhello\r\n"),
    "chunk without its end": chunked(b"5\r\nhelloXX3\r\n"),
    "chunk size is negative": chunked(b"-1\r\nhello\r\n"),
    "header of 200,000 bytes": post(GOOD, b"x-long: " + b"a" * 200_000),
    "header is not ASCII": post(b"{", b"x-request-id: \xff\xfe\x80", b"authorization: \xff"),
    "header with NUL": post(GOOD, b"x-a: a\x00b"),
    "header without a name": post(GOOD, b": nobody"),
    "header without a colon": post(GOOD, b"nonsense"),
    "key of 100,000 bytes": post(b"{}", b"authorization: Bearer " + b"k" * 100_000),
    "last-event-id beyond all bounds": post(
        GOOD, b"idempotency-key: a", b"last-event-id: " + b"9" * 5000
    ),
    "idempotency-key of bytes": post(b"{", b"idempotency-key: \xff\x80"),
    "path that is not UTF-8": post(b"{}", path=b"/v1/%ff%fe%00"),
    "path of 100,000 bytes": post(b"{}", path=b"/" + b"a" * 100_000),
    "path up": post(b"{}", path=b"/../../etc/passwd"),
    "no such method": b"BREW / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "no such version": b"GET /health HTTP/9.9\r\nhost: x\r\nconnection: close\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x55" * 200,
    "events after nonsense": b"GET /v1/jobs/x%00y/events?after=%ff HTTP/1.1\r\nhost: x\r\n"
    b"connection: close\r\n\r\n",
    "multipart without its end": post(
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="\xff"\r\n\r\nx',
        b"content-type: multipart/form-data; boundary=b",
        path=b"/v1/files",
    ),
}


def status_of(target: Target, sent: bytes) -> int:
    """Return the status that these bytes get, 0 for a connection that was closed without one.

    A server that waits for the rest of a request learns that nothing more will come.
    """
    got = b""
    with socket.create_connection(("127.0.0.1", target.port), timeout=REST_S) as client:
        try:
            client.sendall(sent)
            while piece := receive(client):
                got += piece
        except ConnectionError:
            pass
    return int(got.split(b" ", 2)[1]) if got.startswith(b"HTTP/1.1 ") else 0


def receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except TimeoutError:
        client.shutdown(socket.SHUT_WR)
        client.settimeout(ANSWER_S)
        return client.recv(65536)


def test_malformed_requests(target: Target) -> None:
    before = target.resident_bytes()
    statuses = {name: status_of(target, sent) for name, sent in CLIENT_FAULTS.items()}
    assert statuses.pop("header of 200,000 bytes") < 500  # long, but not malformed
    wrong = {name: status for name, status in statuses.items() if status >= 500 or status == 200}
    assert not wrong, target.api.output()[-6000:]
    # A request that never ends has no answer; the others do.
    assert sum(status >= 400 for status in statuses.values()) > len(statuses) - 8, statuses
    target.check_alive()
    assert target.resident_bytes() - before < 64 * 2**20


@pytest.mark.parametrize(
    "piece", [b"a" * 1_000_000, b"x-a: b\r\n" * 100_000], ids=["one header", "many"]
)
def test_headers_without_an_end(target: Target, piece: bytes) -> None:
    before = target.resident_bytes()
    with socket.create_connection(("127.0.0.1", target.port), timeout=ANSWER_S) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-b: ")
        with pytest.raises(ConnectionError):
            client.sendall(piece * 64)
    assert target.resident_bytes() - before < 16 * 2**20
    target.check_alive()


@pytest.mark.timeout(60 + MUTATIONS)
def test_mutations_of_good_requests(target: Target) -> None:
    chance = random.Random(7)
    good = [
        post(GOOD),
        post(prompt(b'"a"')),
        chunked(b"%x\r\n" % len(GOOD), GOOD, b"\r\n0\r\n\r\n"),
    ]
    for _ in range(MUTATIONS):
        sent = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(sent))
            match chance.randrange(4):
                case 0:
                    sent[place] = chance.randrange(256)
                case 1:
                    del sent[place : place + chance.randint(1, 30)]
                case 2:
                    sent[place:place] = chance.randbytes(chance.randint(1, 30))
                case _:
                    sent[place:place] = sent[place : place + chance.randint(1, 200)]
        status = status_of(target, bytes(sent))
        assert status < 500 or status in {503, 504}, (bytes(sent), target.api.output()[-4000:])
    target.check_alive()


def test_connections_that_send_nothing_or_half_of_it(target: Target) -> None:
    before = target.resident_bytes()
    with ExitStack() as stack:
        for position in range(200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", target.port)))
            client.sendall(post(GOOD)[: position * 2])
        target.check_alive()
    target.check_alive()
    assert target.resident_bytes() - before < 64 * 2**20


def test_clients_that_do_not_read(target: Target) -> None:
    """Ten answers of 8 MB each, of which nobody reads more than the kernel's buffers hold."""

    def flood(job: Job) -> Script:
        for index in range(800):
            yield Tokens(job.id, index, (index,), "x" * 10_000)
        while True:
            yield None

    target.worker.script = flood
    target.worker.step_s = 0.0
    before = target.resident_bytes()
    body = json.dumps({"model": "tiny", "prompt": "a", "stream": True}).encode()
    with ExitStack() as stack:
        for _ in range(8):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.enter_context(client)
            client.connect(("127.0.0.1", target.port))
            client.sendall(post(body))
        end = time.monotonic() + 120.0
        grown = 0
        while time.monotonic() < end and not is_flooded(target):
            grown = max(grown, target.resident_bytes() - before)
            time.sleep(0.1)
        assert is_flooded(target)
        assert max(grown, target.resident_bytes() - before) < 48 * 2**20
    wait_until(lambda: len(target.worker.dropped) == 8, 30.0)  # their slots are free again


def is_flooded(target: Target) -> bool:
    """Whether all eight answers are written, as far as their worker goes."""
    states = list(target.worker.running.values())
    return len(states) == 8 and all(
        script.gi_frame is not None and script.gi_frame.f_locals.get("index") == 799  # type: ignore[attr-defined]
        for _, script in states
    )
