"""Responses that are written as they come, and the SSE frames that OpenAI's clients read."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from starlette.responses import Response

from api.http.disconnect import CLIENT_GONE, ClientGone, until_disconnect
from api.http.errors import internal_error, known, openai_error
from api.http.record import SCOPE_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from api.http.record import RequestRecord
    from penstock.contract.events import Finished, Tokens
    from penstock.errors import PenstockError

logger = logging.getLogger("penstock.api")

KEEPALIVE: Final = b": keep-alive\n"
"""A comment. No blank line: OpenAI's SDK takes one after an `id:` for an event without data."""
PLAIN_KEEPALIVE: Final = b"\n"
"""For streams without `id:` lines, whose clients may take every line that is not blank for data."""
DONE: Final = b"data: [DONE]\n\n"
STREAM_HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx must not collect the stream
}


class FramedResponse(Response):
    """Writes what `frames` yields, and closes it when the client goes.

    The status waits for the first frame: an error that comes before it is raised to the
    application's error handlers and gets its true status; `last` makes the frames of a later one,
    which end the stream, whether the error was expected or not. The maker of `frames` yields a
    keep-alive in time, so that the first one is no long wait.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        last: Callable[[PenstockError], Awaitable[bytes]],
        media_type: str | None = "text/event-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers={**STREAM_HEADERS, **(headers or {})})
        # A stream has no length: chunked encoding marks its end.
        del self.headers["content-length"]
        self._frames = frames
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the frames end or the client goes.

        :raises Exception: before the first frame, or from `last`.
        """
        try:
            await until_disconnect(receive, self._write(send, scope[SCOPE_KEY]))
        except ClientGone:
            scope[SCOPE_KEY].error_code = CLIENT_GONE

    async def _write(self, send: Send, record: RequestRecord) -> None:
        begun = False
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    if not begun:
                        begun = True
                        await self._begin(send)
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        except Exception as error:
            if not begun:
                raise
            body = await self._last(_recorded(error, record))
            await send({"type": "http.response.body", "body": body, "more_body": True})
        if not begun:
            await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})


def _recorded(error: Exception, record: RequestRecord) -> PenstockError:
    """Return what a client may know of an error in mid-stream; what it may not goes to the log."""
    failure = known(error)
    if failure is None:
        logger.error("request %s failed in mid-stream", record.request_id, exc_info=error)
        failure = internal_error()
    record.error_code = failure.code
    return failure


class EventSource(Protocol):
    """The events of a request's jobs, such as a `Generation`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response."""
        ...

    def events(self) -> AsyncGenerator[tuple[int, Tokens | Finished] | None, None]:
        """Yield (job's position, event); None when silent."""
        ...


class EventWriter(Protocol):
    """Turns events into a protocol's frames."""

    def event(self, position: int, event: Tokens | Finished) -> bytes:
        """Return the frames of one event of sequence number `position`; may be empty."""
        ...

    def end(self) -> bytes:
        """Return what follows the last event."""
        ...


async def error_frame(error: PenstockError) -> bytes:
    """Return the event that ends a stream which has begun and cannot be finished."""
    return b"data: " + msgspec.json.encode(openai_error(error)) + b"\n\n"


def event_stream(source: EventSource, writer: EventWriter, *, numbered: bool) -> FramedResponse:
    """Return events as OpenAI's stream of SSE frames; `numbered` ones have `id:` lines."""
    keepalive = KEEPALIVE if numbered else PLAIN_KEEPALIVE
    frames = _sse_frames(source, writer, keepalive)
    return FramedResponse(frames, last=error_frame, headers=source.headers)


async def _sse_frames(
    source: EventSource, writer: EventWriter, keepalive: bytes
) -> AsyncGenerator[bytes, None]:
    async with aclosing(source.events()) as events:
        async for item in events:
            if item is None:
                yield keepalive
            elif frame := writer.event(*item):
                yield frame
    yield writer.end()
