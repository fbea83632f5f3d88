"""A response sent without reading the request's body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from penstock.errors import BodyTooLarge, RequestTooSlow, UnsupportedEncoding

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

LEAVES_BODY: Final = (BodyTooLarge, RequestTooSlow, UnsupportedEncoding)
"""Errors of requests whose bodies are not read to their ends."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 32 * 1024 * 1024


class LingeringResponse(Response):
    """Answers at once, throws away what still comes for a moment, then closes the connection.

    Closing under a client that is still sending makes its kernel discard the answer.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, status_code=answer.status_code)
        self.raw_headers = [*answer.raw_headers, (b"connection", b"close")]

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer, then linger."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_S):
                await _discard(receive)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    left_bytes = LINGER_BYTES
    while left_bytes > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left_bytes -= len(message.get("body", b""))
