"""A bound for the head of a request, which uvicorn's faster parser does not have.

It collects a header for as long as one comes; a client could fill the memory with one that never
ends. (Its slower parser, `--http h11`, has a bound of the same size.)
"""

from __future__ import annotations

from typing import Any, Final

MOST_HEAD_BYTES: Final = 64 * 1024
"""Counted by what the socket gives at once, so a head may be longer by one such piece."""
_COUNT: Final = "_penstock_head_bytes"


def bound_heads() -> None:
    """Have every connection of this process refuse a head that is too long."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415
    except ImportError:  # another server, or no such parser
        return
    if not hasattr(HttpToolsProtocol, _COUNT):
        _bound(HttpToolsProtocol)


def _bound(protocol: Any) -> None:
    receive, begin = protocol.data_received, protocol.on_message_begin
    complete = protocol.on_headers_complete

    def on_message_begin(self: Any) -> None:
        setattr(self, _COUNT, 0)
        begin(self)

    def on_headers_complete(self: Any) -> None:
        setattr(self, _COUNT, None)
        complete(self)

    def data_received(self: Any, data: bytes) -> None:
        receive(self, data)
        count = getattr(self, _COUNT)
        if count is None or self.transport.is_closing():
            return
        setattr(self, _COUNT, count + len(data))
        if count + len(data) > MOST_HEAD_BYTES:
            self.send_400_response("The request's headers are too long")

    setattr(protocol, _COUNT, None)
    protocol.on_message_begin = on_message_begin
    protocol.on_headers_complete = on_headers_complete
    protocol.data_received = data_received
