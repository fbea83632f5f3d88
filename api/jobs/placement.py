"""The jobs of one request on their queues: put there, taken up again, and taken off.

Which model a name stands for has been decided before (`api.jobs.routing`); here a job whose queue is
full spills over to another one of the same model. A job is taken off where its client has gone:
at once, or, if the client may come back with its `Idempotency-Key`, once nobody has.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from api.access.resumption import KEY_HEADER
from penstock.errors import InvalidParameter, PenstockError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.access.resumption import Resumption
    from api.services import Services
    from penstock.contract.job import Job
    from penstock.contract.worker import ModelCard

logger = logging.getLogger("penstock.api")

FASTCHAT: Final = "fastchat"
"""The backend of a model that FastChat's own workers serve: its jobs are calls, not queued."""


class Placing:
    """The jobs of one request and what is known of where they are. Owned by the request's task."""

    def __init__(
        self,
        services: Services,
        card: ModelCard,
        jobs: Sequence[Job],
        resumption: Resumption | None,
    ) -> None:
        self.jobs = tuple(jobs)
        """Each with the queue that it is on, once it is."""
        self._services = services
        self._card = card
        self._resumption = resumption
        self._open = {job.id for job in jobs}
        self._submission: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether any job may be on a queue."""
        return self._submission is not None

    def ended(self, job_id: str) -> None:
        """Know that a job needs no cancelling any more."""
        self._open.discard(job_id)

    def expect(self) -> None:
        """Listen to the jobs from before they are there; not to those that may be already."""
        if self._resumption is None and self._card.backend != FASTCHAT:
            for job in self.jobs:
                self._services.replies.expect(job.queue, job.id)

    async def submit(self) -> None:
        """Submit every job. A client that goes meanwhile must not leave one behind unseen.

        :raises QueueFull: no queue of the model has room.
        :raises InvalidParameter: the `Idempotency-Key` was used for another request.
        :raises StoreUnavailable: Redis is away.
        """
        self._submission = self._services.background.spawn(self._submit_all())
        await asyncio.shield(self._submission)

    def forget(self) -> None:
        """Listen no more to jobs that nobody has come to follow."""
        for job in self.jobs:
            self._services.replies.forget(job.id)

    async def _submit_all(self) -> None:
        if self._card.backend == FASTCHAT:
            return
        queue = self._services.queue
        if self._resumption:
            self.jobs = tuple(
                [msgspec.structs.replace(job, queue=await queue.place(job)) for job in self.jobs]
            )
            for job in self.jobs:
                if not await queue.submit(job):
                    await self._take_up(job)
            return
        placed: list[Job] = []
        for job in self.jobs:
            placed.append(await self._spill(job))
            # What is accepted must be known at once: a client may go before the next one is.
            self.jobs = (*placed, *self.jobs[len(placed) :])

    async def _spill(self, job: Job) -> Job:
        """Submit a job to its queue, or to another of the same model where that one is full.

        :raises QueueFull: all of them are.
        """
        queue = self._services.queue
        try:
            await queue.submit(job)
        except QueueFull:
            for name in self._services.registry.other_queues(self._card):
                other = msgspec.structs.replace(job, queue=name)
                with suppress(QueueFull):
                    await queue.submit(other)
                    return other
            raise
        return job

    async def _take_up(self, job: Job) -> None:
        """Go on with a job that is there already: its events come to this process from now on."""
        queue = self._services.queue
        if (await queue.state(job.id)).digest != job.digest:
            raise InvalidParameter(
                "This Idempotency-Key was used for another request", param=KEY_HEADER
            )
        await queue.redirect(job.id, job.reply)

    async def submit_again(self, job: Job) -> bool:
        """Submit a job that Redis has lost; False where its time is over, and it may have ended.

        A failover loses what the old master had taken in its last instant. The same job, with the
        same seed, gives the same text.
        """
        if await self._services.queue.now_ms() >= job.deadline_ms:
            return False
        logger.warning("job %s of request %s was lost: again", job.id, job.request_id)
        await self._services.queue.submit(job)
        return True

    def leave(self) -> None:
        """Cancel what is open: at once, or later if nobody has come back for it by then."""
        submission = self._submission
        if not self._open or submission is None:
            return
        background = self._services.background
        left = background.spawn(self._leave_open(submission))
        if self._resumption:
            grace_s = self._services.settings.resume_grace_s
            background.spawn_later(grace_s, lambda: self._cancel_open(left))
        else:
            background.spawn(self._cancel_open(left))

    async def _leave_open(self, submission: asyncio.Task[None]) -> None:
        await asyncio.wait({submission})
        for job in self.jobs:
            if job.id in self._open:
                with suppress(PenstockError):  # Redis is away; then a row too much may be written
                    await self._services.unheard.leave(job)

    async def _cancel_open(self, left: asyncio.Task[None]) -> None:
        await asyncio.wait({left})
        if self._resumption:
            await self._until_nothing_hindered_the_client()
        for job_id in self._open:
            try:
                if not self._resumption or await self._is_forsaken(job_id):
                    await self._services.queue.cancel(job_id)
            except PenstockError:  # never stored, or ended; else its deadline ends it
                continue

    async def _until_nothing_hindered_the_client(self) -> None:
        """Wait until Redis has been there for the grace time: without it nobody can come back."""
        replies, grace_s = self._services.replies, self._services.settings.resume_grace_s
        while (left_s := grace_s - replies.connected_s()) > 0:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(left_s)

    async def _is_forsaken(self, job_id: str) -> bool:
        """Whether nobody has taken a job up again, here or at another process."""
        state = await self._services.queue.state(job_id)
        ours = state.reply == self._services.replies.channel
        return ours and not self._services.replies.is_followed(job_id)
