"""Fetches the blocks of one model from other hosts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httpx

from penstock.clock import clock
from penstock.engine.reuse.block_files import HEADER_BYTES, is_whole, size_in
from workers.serving.block_exchange.wire import (
    HAS,
    MOST_NAMES,
    READ,
    SEAL_BYTES,
    Token,
    body_of,
    path_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workers.serving.block_exchange.hosts import Hosts

MOST_ASKED: Final = 16
"""Hosts that are asked for one prompt's blocks."""
FIND_S: Final = 0.2
"""The time after which no further host is asked."""
CONNECT_S: Final = 0.3
SILENCE_S: Final = 1.0
BLOCK_S: Final = 5.0
"""The longest time of one block, however it trickles."""
CONNECTIONS: Final = 32
_REASONS: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "it has another PENSTOCK_KV_EXCHANGE_TOKEN, or its clock differs by a minute or more"
}
_FAILURES: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError)


def new_client() -> httpx.Client:
    """Return a client that goes through no proxy; any thread may use it."""
    return httpx.Client(
        timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        trust_env=False,
    )


class HostBlocks:
    """The blocks of one model on other hosts (`penstock.engine.reuse.read_ahead.RemoteBlocks`)."""

    def __init__(
        self,
        hosts: Hosts,
        client: httpx.Client,
        token: Token,
        *,
        queue: str,
        identity: bytes,
        most_bytes: int,
    ) -> None:
        """`identity` is of the model, its format and version; a block has `most_bytes` at most."""
        self._hosts = hosts
        self._client = client
        self._token = token
        self._queue = queue
        self._identity = identity
        self._most_bytes = most_bytes
        self._failures = 0

    def failures(self) -> int:
        """See `RemoteBlocks`."""
        return self._failures

    def holder(self, names: Sequence[bytes]) -> HostSource | None:
        """See `RemoteBlocks`."""
        best: HostSource | None = None
        for url, has in self._ask(names):
            count = next((place for place, one in enumerate(has) if one != 1), len(has))
            if count > (best.count if best else 0):
                best = HostSource(self, url, count)
            if count == len(has):
                break
        if best is not None:
            self._hosts.had_blocks(self._queue, best.url)
        return best

    def last(self, names: Sequence[bytes]) -> int | None:
        """See `RemoteBlocks`."""
        best = -1
        for _, has in self._ask(names):
            best = max(best, has.rfind(b"\1"))
            if best == len(has) - 1:
                break
        return None if best < 0 else best

    def _ask(self, names: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield each host with a byte for each name: 1 if it has it."""
        body = body_of(names[:MOST_NAMES])
        end_s = time.monotonic() + FIND_S
        for url in self._hosts.of(self._queue)[:MOST_ASKED]:
            if time.monotonic() > end_s:
                return
            try:
                has = self._has(url, body, len(names[:MOST_NAMES]))
            except _FAILURES as error:
                self.fail(url, error)
            else:
                yield url, has

    def _has(self, url: str, body: bytes, count: int) -> bytes:
        with self._call(url, HAS, body) as response:
            arriving = _Arriving(response)
            return bytes(arriving.take(count))

    def read(self, url: str, names: Sequence[bytes]) -> Iterator[bytes]:
        """Yield blocks of one host, up to the first that it lacks or that is not what it should be."""
        try:
            with self._call(url, READ, body_of(names)) as response:
                arriving = _Arriving(response)
                for name in names:
                    content = self._next(arriving, name)
                    if content is None:
                        return
                    yield content
        except _FAILURES as error:
            self.fail(url, error)

    def _next(self, arriving: _Arriving, name: bytes) -> bytes | None:
        """Return the next block; None at the end of the answer.

        :raises ValueError: it is of something else, damaged, or not from who has the token.
        """
        arriving.begin()
        if not arriving.has_more():
            return None
        header = arriving.take(HEADER_BYTES)
        size = size_in(header)
        if size > self._most_bytes:
            raise ValueError(f"a block of {size} bytes, where {self._most_bytes} are the most")
        frame = arriving.take(size, after=header)
        if not self._token.has_sealed(frame, arriving.take(SEAL_BYTES)):
            raise ValueError("a block that was not sealed with PENSTOCK_KV_EXCHANGE_TOKEN")
        if not is_whole(self._identity, name, frame):
            raise ValueError("a damaged block, or one of something else")
        return bytes(memoryview(frame)[HEADER_BYTES:])

    def _call(self, url: str, call: str, body: bytes) -> _Call:
        path = path_of(self._identity, call)
        header = self._token.sign(path, body, clock.now_s())
        return _Call(self._client, url + path, body, header)

    def fail(self, url: str, error: Exception) -> None:
        """Count a failure, and ask this host no more for a while."""
        self._failures += 1
        self._hosts.failed(url, str(error) or type(error).__name__)


@dataclass(frozen=True, slots=True)
class HostSource:
    """A host that has the first `count` of the names that were looked for."""

    blocks: HostBlocks
    url: str
    count: int

    def read(self, names: Sequence[bytes]) -> Iterator[bytes]:
        """See `penstock.engine.reuse.read_ahead.RemoteSource`."""
        return self.blocks.read(self.url, names[:MOST_NAMES])


class _Call:
    """One call, whose answer is read as it comes."""

    def __init__(self, client: httpx.Client, url: str, body: bytes, header: str) -> None:
        self._stream = client.stream("POST", url, content=body, headers={"authorization": header})

    def __enter__(self) -> httpx.Response:
        response = self._stream.__enter__()
        if response.status_code != HTTPStatus.OK:
            self._stream.__exit__(None, None, None)
            raise ValueError(_REASONS.get(response.status_code, f"status {response.status_code}"))
        return response

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(None, None, None)


class _Arriving:
    """The bytes of an answer, as many as are asked for at a time. Nothing is decompressed."""

    def __init__(self, response: httpx.Response) -> None:
        self._pieces = response.iter_raw()
        self._rest = memoryview(b"")
        self.begin()

    def begin(self) -> None:
        """Give what is read from now on its time."""
        self._end_s = time.monotonic() + BLOCK_S

    def has_more(self) -> bool:
        """Return whether there is another byte."""
        while not self._rest:
            if time.monotonic() > self._end_s:
                raise ValueError(f"a block took more than {BLOCK_S:g} s")
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        return True

    def take(self, size: int, *, after: bytes | bytearray = b"") -> bytearray:
        """Return so many bytes, behind those that are given.

        :raises ValueError: the answer ends before them, or they take too long.
        """
        taken = bytearray(len(after) + size)
        taken[: len(after)] = after
        at = len(after)
        while at < len(taken):
            if not self.has_more():
                raise ValueError("the answer ends in the midst of a block")
            count = min(len(self._rest), len(taken) - at)
            taken[at : at + count] = self._rest[:count]
            self._rest = self._rest[count:]
            at += count
        return taken
