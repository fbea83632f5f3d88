"""Bounds for connections that uvicorn's faster parser does not have.

It collects a header for as long as one comes, waits for ever for a head that has no end, and for the
rest of a body after its request is answered. It also sends chunks to clients of HTTP/1.0, which
know none. (Its slower parser, `--http h11`, bounds heads and knows HTTP/1.0.)
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

HEAD_BYTES: Final = 64 * 1024
"""Counted by what the socket gives at once, so a head may be longer by one such piece."""
HEAD_S: Final = 20.0
"""From the connection, or from a further request's first byte, to the end of the head."""
UNREAD_S: Final = 5.0
"""How long the rest of a body is thrown away after the answer, before the connection is closed."""
_COUNT: Final = "_penstock_head_bytes"
_TIMER: Final = "_penstock_head_timer"
_UNFINISHED: Final = "_penstock_unfinished"
_TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


class _UntilClose(int):
    """The length of a body that ends with its connection: nothing is beyond it or short of it."""

    def __lt__(self, _other: int) -> bool:
        return False

    def __sub__(self, _other: int) -> _UntilClose:
        return self

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = int.__hash__


def bound_connections() -> None:
    """Apply the limits above to every connection of this process."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415 - not everywhere
    except ImportError:  # another server, or no such parser
        return
    if not hasattr(HttpToolsProtocol, _COUNT):
        _bound_heads(HttpToolsProtocol)
        _bound_bodies(HttpToolsProtocol)


def _bound_heads(protocol: Any) -> None:
    receive, begin = protocol.data_received, protocol.on_message_begin
    complete = protocol.on_headers_complete
    made, lost = protocol.connection_made, protocol.connection_lost

    def connection_made(self: Any, transport: Any) -> None:
        made(self, transport)
        _start_timer(self)

    def connection_lost(self: Any, error: Exception | None) -> None:
        _stop_timer(self)
        lost(self, error)

    def on_message_begin(self: Any) -> None:
        setattr(self, _COUNT, 0)
        if getattr(self, _TIMER) is None:
            _start_timer(self)
        begin(self)

    def on_headers_complete(self: Any) -> None:
        setattr(self, _COUNT, None)
        _stop_timer(self)
        complete(self)
        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _UntilClose()

    def data_received(self: Any, data: bytes) -> None:
        receive(self, data)
        count = getattr(self, _COUNT)
        if count is None or self.transport.is_closing():
            return
        setattr(self, _COUNT, count + len(data))
        if count + len(data) > HEAD_BYTES:
            self.send_400_response("The request's headers are too long")

    setattr(protocol, _COUNT, None)
    setattr(protocol, _TIMER, None)
    protocol.connection_made, protocol.connection_lost = connection_made, connection_lost
    protocol.on_message_begin = on_message_begin
    protocol.on_headers_complete = on_headers_complete
    protocol.data_received = data_received


def _start_timer(connection: Any) -> None:
    loop = asyncio.get_running_loop()
    setattr(connection, _TIMER, loop.call_later(HEAD_S, _too_late, connection))


def _stop_timer(connection: Any) -> None:
    timer = getattr(connection, _TIMER)
    if timer is not None:
        timer.cancel()
        setattr(connection, _TIMER, None)


def _too_late(connection: Any) -> None:
    setattr(connection, _TIMER, None)
    if connection.transport.is_closing():
        return
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:  # the last request is being answered
        _start_timer(connection)
        return
    if getattr(connection, _COUNT) is not None:  # a part of a head has come
        connection.transport.write(_TOO_LATE)
    connection.transport.close()


def _bound_bodies(protocol: Any) -> None:
    begin, complete = protocol.on_message_begin, protocol.on_message_complete
    answered = protocol.on_response_complete

    def on_message_begin(self: Any) -> None:
        setattr(self, _UNFINISHED, True)
        begin(self)

    def on_message_complete(self: Any) -> None:
        setattr(self, _UNFINISHED, False)
        complete(self)

    def on_response_complete(self: Any) -> None:
        answered(self)
        if getattr(self, _UNFINISHED) and not self.transport.is_closing():
            asyncio.get_running_loop().call_later(UNREAD_S, _close_unfinished, self, self.cycle)

    setattr(protocol, _UNFINISHED, False)
    protocol.on_message_begin = on_message_begin
    protocol.on_message_complete = on_message_complete
    protocol.on_response_complete = on_response_complete


def _close_unfinished(connection: Any, cycle: Any) -> None:
    if connection.cycle is cycle and getattr(connection, _UNFINISHED):
        connection.transport.close()
