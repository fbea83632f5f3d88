"""Bodies of requests, read within bounds of size, time and of all unfinished ones together."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING, Final, cast

from starlette.requests import ClientDisconnect

from penstock.errors import (
    BodyTooLarge,
    InvalidParameter,
    Overloaded,
    RequestTooSlow,
    UnsupportedEncoding,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Message, Receive

BODY_S: Final = 30.0
"""How long a body may take, and one second more for each `LEAST_BYTES_A_SECOND` that have come."""
LEAST_BYTES_A_SECOND: Final = 64 * 1024
UNCOUNTED_BYTES: Final = 64 * 1024
"""Of each unfinished body: small requests are taken whatever large ones wait for."""
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_ENCODINGS: Final = ("gzip", "x-gzip", "deflate")
_PLAIN: Final = ("", "identity")


class UnfinishedBodies:
    """The bytes of bodies that are not whole yet. Owned by the event loop."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.total_bytes = 0

    def add(self, count: int) -> None:
        """Count bytes that are now buffered.

        :raises Overloaded: they would be too many; they are not counted.
        """
        if self.total_bytes + count > self.most_bytes:
            raise Overloaded("Too many large requests are being sent at once; try again")
        self.total_bytes += count

    def remove(self, count: int) -> None:
        """Count bytes no more."""
        self.total_bytes -= count


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """Return the body, decompressed if it is compressed.

    :raises BodyTooLarge: by its Content-Length before a byte is read, else as soon as it passes.
    :raises UnsupportedEncoding: it is encoded in a way that is not known here.
    :raises InvalidParameter: it is not encoded as in its header.
    :raises RequestTooSlow: it does not come in time.
    :raises Overloaded: unfinished bodies take too much memory.
    :raises ClientDisconnect: the client has gone.
    """
    check_length(request, limit_bytes)
    decoder = _decoder(request, limit_bytes)
    bodies = cast("UnfinishedBodies", request.app.state.bodies)
    receive = paced(request.receive)
    body, received, counted = bytearray(), 0, 0
    more = True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            piece = message.get("body", b"")
            received += len(piece)
            if received > limit_bytes:
                raise too_large(limit_bytes)
            body += piece if decoder is None else decoder.take(piece, limit_bytes - len(body))
            if len(body) > limit_bytes:
                raise too_large(limit_bytes)
            if more and (growth := len(body) - UNCOUNTED_BYTES - counted) > 0:
                bodies.add(growth)
                counted += growth
    finally:
        bodies.remove(counted)
    if decoder is not None:
        decoder.close()
    return body


def check_length(request: Request, limit_bytes: int) -> None:
    """Check the body's length in the request's headers.

    :raises BodyTooLarge: it is over the limit.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise too_large(limit_bytes)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """Return the error of a body over its limit."""
    return BodyTooLarge(f"The request's body is over the limit of {limit_bytes} bytes")


def paced(receive: Receive) -> Receive:
    """Return a `receive` of a body that has to come in time.

    :raises RequestTooSlow: by what is returned.
    """
    began_s, received = time.monotonic(), 0

    async def next_message() -> Message:
        nonlocal received
        left_s = began_s + BODY_S + received / LEAST_BYTES_A_SECOND - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                message = await receive()
        except TimeoutError as error:
            raise RequestTooSlow("The request's body does not come in time") from error
        received += len(message.get("body", b""))
        return message

    return next_message


def encoding_of(request: Request) -> str:
    """Return how a body is encoded, empty for not at all.

    :raises UnsupportedEncoding: it is not known here.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in _PLAIN:
        return ""
    if encoding not in _ENCODINGS:
        raise UnsupportedEncoding(
            f"content-encoding {encoding[:40]!r} is not known here; gzip and deflate are"
        )
    return encoding


def _decoder(request: Request, limit_bytes: int) -> _Decoder | None:
    return _Decoder(limit_bytes) if encoding_of(request) else None


class _Decoder:
    """Decompresses a body piece by piece, within the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)

    def take(self, piece: bytes, room_bytes: int) -> bytes:
        """Return what a piece holds.

        :raises BodyTooLarge: more than there is room for.
        :raises InvalidParameter: it is not compressed, or has something behind its end.
        """
        try:
            content = self._stream.decompress(piece, room_bytes + 1)
        except zlib.error as error:
            raise InvalidParameter(f"The request's body cannot be decompressed: {error}") from error
        if len(content) > room_bytes or self._stream.unconsumed_tail:
            raise too_large(self._limit_bytes)
        if self._stream.unused_data:
            raise InvalidParameter("The request's body continues after its compressed end")
        return content

    def close(self) -> None:
        """Check that the end has come.

        :raises InvalidParameter: it has not.
        """
        if not self._stream.eof:
            raise InvalidParameter("The request's compressed body has no end")
