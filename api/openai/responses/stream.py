"""The SSE frames of responses: of a running one, and again of any that is kept."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from api.http.streaming import PLAIN_KEEPALIVE, FramedResponse
from api.openai.chat.chunks import encode
from api.openai.responses.events import ResponseBuilder, finished
from api.openai.responses.record import Pieces
from api.openai.responses.store import Shelf, ending_of, failure
from penstock.contract.events import Failed, Finished, Tokens
from penstock.errors import PenstockError, UnknownJob, from_code

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from api.jobs.generation import Generation
    from api.openai.responses.record import Ending, StoredResponse
    from api.openai.responses.store import Keeper
    from api.services import Services

Json = dict[str, Any]

ON_ITS_WAY_S: Final = 0.5
"""Pause between two looks for a job that is not there yet."""


def frame(events: Iterable[Json], after: int = -1) -> bytes:
    """Return the frames of those events that the client has not seen."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))
        for event in events
        if event["sequence_number"] > after
    )


class _Writer:
    """Writes one response; `close` keeps its ending, before a client hears of it."""

    def __init__(
        self, stored: StoredResponse, close: Callable[[Ending], Awaitable[Any]], after: int = -1
    ) -> None:
        self.builder = ResponseBuilder(stored)
        self._close = close
        self._after = after
        self._pieces = Pieces(stored)

    def begin(self) -> bytes:
        """Return what comes before the answer."""
        return frame(self.builder.begin(), self._after)

    async def event(self, event: Tokens | Finished) -> bytes:
        """Return the frames of one event; none if it has completed no text."""
        piece = self._pieces.add(event)
        made = [] if piece is None else self.builder.piece(piece)
        if not isinstance(event, Tokens):
            made += await self._end(ending_of(event, self._pieces.all))
        return frame(made, self._after)

    async def failed(self, error: PenstockError) -> bytes:
        """Return the frames that end a response which cannot be finished."""
        return frame(await self._end(failure(error, self._pieces.all)), self._after)

    async def broken_off(self, error: PenstockError) -> bytes:
        """Return the frame that ends this stream of a response which may go on without it.

        It has the number of the last event that the client has, so a client that comes back after
        it misses nothing.
        """
        last = max(self._after, self.builder.last_sequence)
        event = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return frame([{**event, "sequence_number": last}])

    async def _end(self, ending: Ending) -> list[Json]:
        await self._close(ending)
        return self.builder.end(ending)


async def _nothing(_ending: Ending) -> None:
    """Keep nothing."""


def live_stream(
    generation: Generation, stored: StoredResponse, keeper: Keeper | None
) -> FramedResponse:
    """Stream a response that its client waits for; leaving early cancels it."""
    writer = _Writer(stored, keeper.close if keeper else _nothing)
    frames = _live_frames(generation, writer)
    return FramedResponse(frames, last=writer.failed, headers=generation.headers)


async def _live_frames(generation: Generation, writer: _Writer) -> AsyncGenerator[bytes, None]:
    begun = False
    try:
        async with aclosing(generation.events()) as events:
            async for item in events:
                if not begun:
                    begun = True
                    yield writer.begin()
                if written := PLAIN_KEEPALIVE if item is None else await writer.event(item[1]):
                    yield written
    except PenstockError as error:
        if not begun:  # the last frames will not be read, but it has ended
            await writer.failed(error)
        raise


async def stored_stream(
    services: Services,
    stored: StoredResponse,
    *,
    after: int = -1,
    headers: Mapping[str, str] | None = None,
) -> FramedResponse:
    """Stream a response after sequence number `after`; watching does not own it."""
    shelf = Shelf(services)
    stored = await shelf.settled(stored)
    writer = _Writer(stored, shelf.keeper(stored).close, after)
    frames = _stored_frames(services, shelf, stored, writer, after)
    return FramedResponse(frames, last=writer.broken_off, headers=headers)


async def _stored_frames(
    services: Services, shelf: Shelf, stored: StoredResponse, writer: _Writer, after: int
) -> AsyncGenerator[bytes, None]:
    if stored.ending is not None:
        yield frame(finished(stored, stored.ending)[1], after)
        return
    services.replies.check_room(stored.job_id)  # a status, not an error in the stream
    yield writer.begin() or PLAIN_KEEPALIVE
    has_begun = False
    while True:
        try:
            async with aclosing(_followed(services, shelf, stored)) as events:
                async for event in events:
                    has_begun = has_begun or event is not None
                    if isinstance(event, Failed):
                        yield await writer.failed(from_code(event.code, event.message))
                        return
                    if written := PLAIN_KEEPALIVE if event is None else await writer.event(event):
                        yield written
        except UnknownJob:
            # It ended, and its journal went, between two looks: what is kept has the rest.
            again = await shelf.settled(await shelf.own(stored.id, stored.tenant))
            if again.ending is None and not has_begun:  # its job is on its way
                yield PLAIN_KEEPALIVE
                await asyncio.sleep(ON_ITS_WAY_S)
                continue
            ending = again.ending or failure(UnknownJob("The answer was lost"), ())
            yield frame(finished(again, ending)[1], max(after, writer.builder.last_sequence))
        return


async def _followed(
    services: Services, shelf: Shelf, stored: StoredResponse
) -> AsyncGenerator[Tokens | Finished | Failed | None, None]:
    """Yield a job's events from its first on."""
    queue = await shelf.bring_here(stored)
    follow = services.replies.follow(queue, stored.job_id, tick_s=services.settings.keepalive_s)
    async with aclosing(follow) as events:
        async for event in events:
            yield event
