"""Where responses are kept, and how they come to their end whatever happens to the API process."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.exceptions import RedisError

from api.access.owned import owned
from api.http.errors import INTERNAL_ERROR
from api.openai.responses.events import ResponseBuilder, finished
from api.openai.responses.record import Ending, Piece, Pieces, StoredResponse
from penstock.clock import clock
from penstock.contract.events import TERMINAL_EVENTS, Failed, Finished, FinishReason, Tokens
from penstock.errors import (
    Cancelled,
    JobFailed,
    PenstockError,
    UnknownJob,
    UnknownObject,
    from_code,
)
from penstock.transport.jobs import journal
from penstock.transport.jobs.records import TERMINAL_STATUSES, JobStatus
from penstock.transport.store.documents import Documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from api.jobs.generation import Generation
    from api.services import Services
    from penstock.contract.events import Event

logger = logging.getLogger("penstock.api")

KIND: Final = "response"
SWEEP_S: Final = 5.0
YOUNG_S: Final = 10.0
"""A response that was opened a moment ago may not have its job yet."""
CANCEL_WAIT_S: Final = 5.0
CANCEL_LOOK_S: Final = 0.05
PAGE: Final = 1_000


def ending_of(event: Finished, pieces: Iterable[Piece]) -> Ending:
    """Return how a response ended that ended well."""
    status = "incomplete" if event.reason is FinishReason.LENGTH else "completed"
    return Ending(status, int(clock.now_s()), tuple(pieces), event.usage)


def failure(error: PenstockError, pieces: Iterable[Piece]) -> Ending:
    """Return how a response ended that did not."""
    status = "cancelled" if isinstance(error, Cancelled) else "failed"
    return Ending(
        status,
        int(clock.now_s()),
        tuple(pieces),
        error_code=error.code,
        error_message=error.message,
    )


class Shelf:
    """The kept responses. Of one event loop; costs nothing to make."""

    def __init__(self, services: Services) -> None:
        self._services = services
        settings = services.settings
        self._documents = Documents(
            services.redis, settings, KIND, StoredResponse, settings.response_ttl_s
        )

    # -- keeping

    async def open(self, stored: StoredResponse) -> StoredResponse:
        """Keep a response that begins; return the one that was there, for a repeated request."""
        return await self._documents.open(stored.id, stored, clock.now_s())

    async def close(self, stored: StoredResponse, ending: Ending) -> StoredResponse:
        """Keep how a response has ended."""
        finished = msgspec.structs.replace(stored, ending=ending)
        await self._documents.close(stored.id, finished)
        return finished

    def keeper(self, stored: StoredResponse) -> Keeper:
        """Return what closes a response, whether its client waits for the end or goes."""
        return Keeper(self, stored)

    async def delete(self, stored: StoredResponse) -> None:
        """Forget a response, and cancel its job."""
        await self._documents.delete(stored.id)
        if stored.ending is None:
            await self._cancel_job(stored)

    # -- finding

    async def own(self, response_id: str, tenant: str) -> StoredResponse:
        """Return one of the caller's responses, and postpone its expiry.

        :raises UnknownObject: see `owned`.
        """
        [stored] = await self._documents.several([response_id])
        return owned(stored, tenant, kind="response", object_id=response_id)

    async def ancestors(self, stored: StoredResponse) -> list[StoredResponse]:
        """Return the responses before one, the oldest first.

        :raises UnknownObject: one of them has been deleted, or has expired.
        """
        documents = await self._documents.several(stored.ancestors)
        for name, document in zip(stored.ancestors, documents, strict=True):
            if document is None:
                raise UnknownObject(f"The response {name} is not kept any more")
        return [document for document in documents if document is not None]

    # -- its state

    async def settled(self, stored: StoredResponse) -> StoredResponse:
        """Return a response with its ending, if its job has one that is not stored yet."""
        if stored.ending is not None:
            return stored
        try:
            state = await self._services.queue.state(stored.job_id)
        except UnknownJob:
            again = await self._documents.get(stored.id)  # it may have been closed meanwhile
            if again is not None and again.ending is not None:
                return again
            if not self._services.missing.is_lost(stored.job_id):
                return stored  # its job is on its way
            lost = JobFailed("The answer was lost: no process was there to store it")
            return await self.close(stored, failure(lost, ()))
        self._services.missing.is_there(stored.job_id)
        if state.status not in TERMINAL_STATUSES:
            return stored
        events = await self._journal(stored, state.queue)
        return await self.close(stored, _ending(stored, events)) if events else stored

    async def shown(self, stored: StoredResponse) -> dict[str, Any]:
        """Return a response's object in its current state."""
        stored = await self.settled(stored)
        if stored.ending is not None:
            return finished(stored, stored.ending)[0].response()
        builder = ResponseBuilder(stored)
        builder.begin()
        try:
            state = await self._services.queue.state(stored.job_id)
        except UnknownJob:  # its job is on its way
            return builder.response()
        for piece in Pieces(stored).add_all(await self._journal(stored, state.queue)):
            builder.piece(piece)
        if builder.status == "queued" and state.status is not JobStatus.WAITING:
            builder.status = "in_progress"
        return builder.response()

    async def _journal(self, stored: StoredResponse, queue: str) -> list[Event]:
        events: list[Event] = []
        redis = self._services.stores.of(queue)
        while True:
            after = events[-1].index if events else -1
            page = await journal.read_async(redis, queue, stored.job_id, after, PAGE)
            events += page
            if len(page) < PAGE:
                return events

    # -- running

    async def collect(
        self, generation: Generation, stored: StoredResponse, keeper: Keeper | None
    ) -> dict[str, Any]:
        """Return the whole response of a client that waits for it.

        :raises PenstockError: it failed.
        """
        pieces = Pieces(stored)
        ending: Ending | None = None
        try:
            async with aclosing(generation.events()) as events:
                async for item in events:
                    if item is not None:
                        pieces.add(item[1])
                        if not isinstance(item[1], Tokens):
                            ending = ending_of(item[1], pieces.all)
        except PenstockError as error:
            if keeper is not None:
                await keeper.close(failure(error, pieces.all))
            raise
        else:
            assert ending is not None  # noqa: S101  a generation ends so or raises
            if keeper is not None:
                await keeper.close(ending)
            return finished(stored, ending)[0].response()

    async def leave_running(self, stored: StoredResponse, generation: Generation) -> None:
        """Submit a response's job, and keep its ending when it comes.

        :raises PenstockError: the queue refuses it.
        """
        try:
            await generation.submit()
        except PenstockError:
            await self._documents.delete(stored.id)
            raise
        self._services.background.spawn(self._keep_when_ended(stored, generation))

    async def _keep_when_ended(self, stored: StoredResponse, generation: Generation) -> None:
        try:
            await self.collect(generation, stored, self.keeper(stored))
        except PenstockError as error:
            logger.info("response %s: %s", stored.id, error.message)

    async def cancel(self, stored: StoredResponse) -> dict[str, Any]:
        """Cancel a response's job, and wait for a moment for the end that this makes."""
        await self._cancel_job(stored)
        end_s = time.monotonic() + CANCEL_WAIT_S
        while True:
            stored = await self.settled(stored)
            if stored.ending is not None or time.monotonic() > end_s:
                return await self.shown(stored)
            await asyncio.sleep(CANCEL_LOOK_S)

    async def _cancel_job(self, stored: StoredResponse) -> None:
        try:
            await self._services.queue.cancel(stored.job_id)
        except UnknownJob:
            logger.debug("response %s has no job any more", stored.id)

    async def bring_here(self, stored: StoredResponse) -> str:
        """Have a job's live events sent to this process, and return its queue.

        :raises UnknownJob: it has ended, and its journal has expired.
        """
        state = await self._services.queue.state(stored.job_id)
        if state.reply != self._services.replies.channel:
            await self._services.queue.redirect(stored.job_id, self._services.replies.channel)
        return state.queue

    # -- after a crash

    async def sweep(self) -> int:
        """Keep the ends of responses whose API process has died; return how many."""
        swept = 0
        for response_id in await self._documents.opened_before(clock.now_s() - YOUNG_S):
            stored = await self._documents.get(response_id)
            if stored is None:
                await self._documents.forget(response_id)
            elif not self._services.replies.is_followed(stored.job_id):
                swept += (await self.settled(stored)).ending is not None
        return swept


class Keeper:
    """Closes one response. A client that goes leaves that to a later look, or to the sweep."""

    def __init__(self, shelf: Shelf, stored: StoredResponse) -> None:
        self._shelf = shelf
        self._stored = stored

    async def close(self, ending: Ending) -> None:
        """Store the ending if it is the answer's own and Redis is there; else `Shelf.sweep` does."""
        if ending.status == "failed" and ending.error_code in _PASSING_CODES:
            return
        try:
            await self._shelf.close(self._stored, ending)
        except PenstockError as error:
            logger.warning("response %s is not kept yet: %s", self._stored.id, error)


_PASSING_CODES: Final = frozenset({"store_unavailable", "no_worker", "draining", INTERNAL_ERROR})
"""Failures of the stream, not of the answer, whose ending comes from its job."""


def _ending(stored: StoredResponse, events: Sequence[Event]) -> Ending:
    """Return the ending in a complete journal."""
    last = events[-1]
    pieces = Pieces(stored).add_all(events)
    assert isinstance(last, TERMINAL_EVENTS)  # noqa: S101  the job has ended
    if isinstance(last, Failed):
        return failure(from_code(last.code, last.message), pieces)
    return ending_of(last, pieces)


async def sweep_forever(services: Services) -> None:
    """Sweep every few seconds; every API process does."""
    shelf = Shelf(services)
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await shelf.sweep()
        except (PenstockError, RedisError, OSError) as error:  # the registry has logged it
            logger.debug("responses: %s", error)
        except Exception:
            logger.exception("responses")
