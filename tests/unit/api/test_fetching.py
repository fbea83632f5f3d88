"""What URLs of clients name is fetched from listed hosts alone, within bounds."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from api.http import fetching
from api.http.fetching import AT_ONCE, LONGEST_URL, MOST_REDIRECTS, Fetcher, Room
from api.http.host_list import allows_address
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]

BYTES = 1_000
HERE = ("127.0.0.1",)


class Site:
    """A server on this machine; `asked` has the head of each request."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[str] = []
        self.port = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        try:
            await self._answer(head.split(" ")[1], writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def site(answer: Answer) -> AsyncIterator[Site]:
    made = Site(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def fetcher(
    *hosts: str, resolved: Sequence[str] | None = None
) -> AsyncIterator[tuple[Fetcher, list[str]]]:
    """A fetcher, and the names that it has looked up; each lookup uses up one of `resolved`."""
    names: list[str] = []
    left = list(resolved or ())

    async def resolve(host: str, _port: int) -> list[str]:
        names.append(host)
        return [left.pop(0) if left else host]

    made = Fetcher(hosts, resolve)
    try:
        yield made, names
    finally:
        await made.close()


async def whole(_path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nGIF")
    await writer.drain()


async def fetched(one: Fetcher, url: str, tenant: str = "a") -> bytes:
    return await one.fetch(url, BYTES, Room(1 << 40), tenant)


async def refused(one: Fetcher, url: str) -> str:
    with pytest.raises(InvalidParameter) as caught:
        await fetched(one, url)
    return caught.value.message


async def test_a_listed_host() -> None:
    async with site(whole) as theirs, fetcher(f"127.0.0.1:{theirs.port}") as (one, _):
        assert await fetched(one, theirs.url("/a.gif?b=c#d")) == b"GIF"
        (head,) = theirs.asked
        assert head.startswith("GET /a.gif?b=c HTTP/1.1\r\n")
        assert f"host: 127.0.0.1:{theirs.port}" in head.lower()


async def test_urls_that_are_not_fetched() -> None:
    async with site(whole) as theirs:
        for hosts in ((), ("127.0.0.2",), ("127.0.0.1:1",), ("*.example",)):
            async with fetcher(*hosts) as (one, _):
                assert "nothing is fetched" in await refused(one, theirs.url())
        async with fetcher("*", "127.0.0.1") as (one, names):
            for url in (
                "ftp://127.0.0.1/", "file:///etc/passwd", "http://user@127.0.0.1/", "http://", "",
                "http://[::1", "http://127.0.0.1:99999/", f"http://127.0.0.1/{'a' * LONGEST_URL}",
            ):  # fmt: skip
                await refused(one, url)
            assert names == []
        assert theirs.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:db8::1", "fec0::1", "::7f00:1", "::ffff:0:7f00:1",
    ],
)  # fmt: skip
async def test_private_addresses(address: str) -> None:
    async with fetcher("*", resolved=[address]) as (one, names):
        assert "no public address" in await refused(one, "http://cdn.example/a.png")
        assert names == ["cdn.example"]
    assert not allows_address(("*", "cdn.example", "8.0.0.0/8"), address, 80)


def test_addresses_that_may_be_called() -> None:
    assert allows_address(("cdn.example",), "8.8.8.8", 80)
    assert allows_address(("cdn.example",), "2606:4700::1111", 443)
    assert allows_address(("cdn.example", "10.0.0.0/8"), "10.1.2.3", 80)
    assert allows_address(("10.0.0.0/8:8080",), "10.1.2.3", 8080)
    assert not allows_address(("10.0.0.0/8:8080",), "10.1.2.3", 80)
    assert allows_address(("127.0.0.1",), "::ffff:127.0.0.1", 80)
    assert allows_address(("fd00::1",), "fd00::1", 80)
    assert allows_address(("fd00::/8:80",), "fd00::1", 80)
    assert allows_address(("[fd00::1]:8080",), "fd00::1", 8080)
    assert not allows_address(("[fd00::1]:8080",), "fd00::1", 80)


async def test_a_silent_name_server_leaves_the_loops_threads_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def silent(*_: object, **_options: object) -> list[object]:
        answered.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    one = Fetcher(("cdn.example",))
    fetches = [asyncio.create_task(refused(one, "http://cdn.example/")) for _ in range(2)]
    try:
        await asyncio.sleep(0)  # both lookups begin
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: 1) == 1
        assert not any(task.done() for task in fetches)
    finally:
        answered.set()
        messages = await asyncio.gather(*fetches)
        await one.close()
    assert all("no public address" in message for message in messages)


async def test_a_name_is_resolved_once() -> None:
    """The second answer of a name server that rebinds is never asked for."""
    async with site(whole) as theirs:
        hosts = (f"cdn.example:{theirs.port}", "127.0.0.1/32")
        async with fetcher(*hosts, resolved=["127.0.0.1", "127.0.0.2"]) as (one, names):
            assert await fetched(one, theirs.url(host="cdn.example")) == b"GIF"
            assert names == ["cdn.example"]
            assert f"host: cdn.example:{theirs.port}" in theirs.asked[0].lower()
            assert "no public address" in await refused(one, theirs.url(host="cdn.example"))
    assert len(theirs.asked) == 1


async def test_redirects() -> None:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/image":
            await whole(path, writer)
            return
        targets = {"/on": "/image", "/out": "http://127.0.0.2/", "/file": "file:///etc/passwd"}
        number = int(path[1:]) if path[1:].isdigit() else 0
        target = targets.get(path, f"/{number + 1}" if number < MOST_REDIRECTS else "/image")
        writer.write(f"HTTP/1.1 302 F\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()

    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        assert await fetched(one, theirs.url("/on")) == b"GIF"
        assert await fetched(one, theirs.url("/1")) == b"GIF"
        assert "redirects" in await refused(one, theirs.url("/0"))
        assert "nothing is fetched" in await refused(one, theirs.url("/out"))
        assert "http or https" in await refused(one, theirs.url("/file"))


async def test_a_body_without_an_end() -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 600)
            await writer.drain()

    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        assert f"over {BYTES} bytes" in await refused(one, theirs.url())
        room = Room(700)
        with pytest.raises(InvalidParameter, match="too large together"):
            await one.fetch(theirs.url(), 10_000, room, "a")


async def test_a_body_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    monkeypatch.setattr(fetching, "TOTAL_S", 0.3)
    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        began_s = time.monotonic()
        assert "took over" in await refused(one, theirs.url())
        assert time.monotonic() - began_s < 5.0


async def test_a_few_at_once() -> None:
    inside, most = 0, 0
    full, gate = asyncio.Event(), asyncio.Event()

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == AT_ONCE:
            full.set()
        await gate.wait()
        inside -= 1
        await whole(path, writer)

    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        tasks = [
            asyncio.create_task(fetched(one, theirs.url(), "ab"[number % 2]))
            for number in range(AT_ONCE + 4)
        ]
        await full.wait()
        await asyncio.sleep(0.05)  # for one too many to come in
        gate.set()
        assert set(await asyncio.gather(*tasks)) == {b"GIF"}
        assert most == AT_ONCE


async def test_a_tenant_that_fetches_much_leaves_room_for_others() -> None:
    gate = asyncio.Event()

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/slow":
            await gate.wait()
        await whole(path, writer)

    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        slow = [asyncio.create_task(fetched(one, theirs.url("/slow"))) for _ in range(AT_ONCE * 2)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert await asyncio.wait_for(fetched(one, theirs.url(), "b"), 5.0) == b"GIF"
        assert not any(task.done() for task in slow)
        gate.set()
        assert set(await asyncio.gather(*slow)) == {b"GIF"}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody else has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=company",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_the_operators_own_authorities_count(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    theirs = Site(whole)
    server = await asyncio.start_server(theirs.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with server:
        async with fetcher(*HERE) as (one, _):
            assert "certificate" in (await refused(one, url)).lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        async with fetcher(*HERE) as (one, _):
            assert await fetched(one, url) == b"GIF"


@pytest.mark.parametrize(
    "head", ["404 Not Found", "500 Broken", "301 Moved", "204 Nothing", "no HTTP"]
)
async def test_answers_that_are_no_image(head: str) -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()

    async with site(answer) as theirs, fetcher(*HERE) as (one, _):
        if head.startswith("204"):
            assert await fetched(one, theirs.url()) == b""  # refused as an image
        else:
            assert await refused(one, theirs.url())


async def test_a_host_that_is_not_there() -> None:
    async with fetcher("127.0.0.1") as (one, _):
        assert "cannot be fetched" in await refused(one, "http://127.0.0.1:1/")
    real = Fetcher(("nowhere.invalid",))
    assert "cannot be fetched" in await refused(real, "http://nowhere.invalid/")
    await real.close()
