"""Jobs on Redis queues, served by our own workers.

Which model a name stands for has been decided before (`api.jobs.routing`); here a job whose queue is
full spills over to another queue of the same model. A job is cancelled when its client has gone:
at once, or, if the client may come back with its `Idempotency-Key`, once it has not come back for
the grace time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import msgspec

from api.http.resumption import KEY_HEADER
from penstock.errors import InvalidParameter, PenstockError, QueueFull
from penstock.transport import keys
from penstock.transport.store import contents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from api.http.background import Background
    from api.http.resumption import Resumption
    from penstock.contract.events import Event
    from penstock.contract.job import Job
    from penstock.contract.worker import ModelCard
    from penstock.transport.fleet.registry import Registry
    from penstock.transport.jobs.images import JobImages
    from penstock.transport.jobs.queue import JobQueue
    from penstock.transport.jobs.unclaimed_endings import UnclaimedEndings
    from penstock.transport.replies.all_replies import AllReplies

logger = logging.getLogger("penstock.api")


@dataclass(frozen=True)
class QueueCarrier:
    """The `Carrier` of models that our own workers serve."""

    queue: JobQueue
    replies: AllReplies
    registry: Registry
    unheard: UnclaimedEndings
    images: JobImages
    background: Background
    resume_grace_s: float
    runs_detached: ClassVar[bool] = True

    def placement(
        self,
        card: ModelCard,
        jobs: Sequence[Job],
        resumption: Resumption | None,
        images: Mapping[str, bytes],
    ) -> QueuePlacement:
        """Return the placement of one request's jobs and their images; nothing is submitted yet."""
        return QueuePlacement(self, card, jobs, resumption, images)


class QueuePlacement:
    """The `Placement` of jobs on our queues."""

    def __init__(
        self,
        carrier: QueueCarrier,
        card: ModelCard,
        jobs: Sequence[Job],
        resumption: Resumption | None,
        images: Mapping[str, bytes],
    ) -> None:
        self.jobs = tuple(jobs)
        self._images = images
        self._carrier = carrier
        self._card = card
        self._resumption = resumption
        self._open = {job.id for job in jobs}
        self._submission: asyncio.Task[None] | None = None

    @property
    def submitted(self) -> bool:
        """Whether any job may be on a queue."""
        return self._submission is not None

    def expect(self) -> None:
        """Receive the jobs' events from before they are submitted.

        A repeated request's jobs may exist already: their earlier events are in the journal.
        """
        if self._resumption is None:
            for job in self.jobs:
                self._carrier.replies.expect(job.queue, job.id)

    async def submit(self) -> None:
        """Submit every job. This continues if the client leaves meanwhile, so that no job is missed.

        :raises QueueFull: no queue of the model has room.
        :raises InvalidParameter: the `Idempotency-Key` was used for another request.
        :raises StoreUnavailable: Redis is away.
        """
        self._submission = self._carrier.background.spawn(self._submit_all())
        await asyncio.shield(self._submission)

    def follow(self, job: Job, *, tick_s: float) -> AsyncGenerator[Event | None, None]:
        """Yield a job's events from its first; None when silent for `tick_s`.

        :raises PenstockError: as `Replies.follow`.
        """
        again = partial(self._submit_again, job)
        return self._carrier.replies.follow(job.queue, job.id, tick_s=tick_s, again=again)

    def ended(self, job_id: str) -> None:
        """Note that a job needs no cancelling any more."""
        self._open.discard(job_id)

    def unfollow(self) -> None:
        """Drop the events of jobs without a follower."""
        for job in self.jobs:
            self._carrier.replies.forget(job.id)

    async def _submit_all(self) -> None:
        queue = self._carrier.queue
        if self._resumption:
            self.jobs = tuple([await self._placed(job) for job in self.jobs])
            await self._store_images(self.jobs)
            for job in self.jobs:
                if not await queue.submit(job):
                    await self._take_up(job)
            return
        await self._store_images(self.jobs)
        accepted: list[Job] = []
        for job in self.jobs:
            accepted.append(await self._spill(job))
            # Accepted jobs must be known at once: the client may go before the next one is.
            self.jobs = (*accepted, *self.jobs[len(accepted) :])

    async def _placed(self, job: Job) -> Job:
        """Return a job with the queue that an earlier request with its key has chosen.

        :raises StoreUnavailable: there is no such queue: another program has written its name.
        """
        queue = await self._carrier.queue.place(job)
        if queue == job.queue:
            return job
        if all(queue != served.card.queue for served in self._carrier.registry.known()):
            raise contents.foreign(keys.locate(job.id), ValueError(f"there is no queue {queue!r}"))
        return msgspec.structs.replace(job, queue=queue)

    async def _store_images(self, jobs: Sequence[Job]) -> None:
        """Put the images where a worker finds them, before jobs that name them."""
        if not self._images:
            return
        longest_ms = max(job.deadline_ms - job.created_ms for job in jobs)
        for queue in {job.queue for job in jobs}:
            await self._carrier.images.store(self._images, queue, longest_ms / 1000)

    async def _spill(self, job: Job) -> Job:
        """Submit a job to its queue or, if that is full, to another one of the same model.

        :raises QueueFull: all of them are full.
        """
        queue = self._carrier.queue
        try:
            await queue.submit(job)
        except QueueFull:
            for name in self._carrier.registry.other_queues(self._card):
                other = msgspec.structs.replace(job, queue=name)
                with suppress(QueueFull):
                    await self._store_images([other])
                    await queue.submit(other)
                    return other
            raise
        return job

    async def _take_up(self, job: Job) -> None:
        """Continue a job that exists already: its events come to this process from now on."""
        queue = self._carrier.queue
        if (await queue.state(job.id)).digest != job.digest:
            raise InvalidParameter(
                "This Idempotency-Key was used for another request", param=KEY_HEADER
            )
        await queue.redirect(job.id, job.reply)

    async def _submit_again(self, job: Job) -> bool:
        """Submit a job that Redis has lost; False if its deadline has passed: it may have ended.

        A failover loses what the old master had accepted in its last instant. The same job, with
        the same seed, gives the same text.
        """
        if await self._carrier.queue.now_ms(job.queue) >= job.deadline_ms:
            return False
        logger.warning("job %s of request %s was lost: again", job.id, job.request_id)
        await self._store_images([job])
        await self._carrier.queue.submit(job)
        return True

    def cancel(self) -> None:
        """Cancel the open jobs: at once, or after the grace time if no client has resumed them."""
        submission = self._submission
        if not self._open or submission is None:
            return
        background = self._carrier.background
        left = background.spawn(self._leave_open(submission))
        if self._resumption:
            background.spawn_later(self._carrier.resume_grace_s, lambda: self._cancel_open(left))
        else:
            background.spawn(self._cancel_open(left))

    async def _leave_open(self, submission: asyncio.Task[None]) -> None:
        await asyncio.wait({submission})
        for job in self.jobs:
            if job.id in self._open:
                with suppress(PenstockError):  # Redis is away; a usage row too many may be written
                    await self._carrier.unheard.leave(job)

    async def _cancel_open(self, left: asyncio.Task[None]) -> None:
        await asyncio.wait({left})
        if self._resumption:
            await asyncio.gather(
                *(self._until_clients_could_return(queue) for queue in self._queues())
            )
        for job_id in self._open:
            try:
                if not self._resumption or await self._is_abandoned(job_id):
                    await self._carrier.queue.cancel(job_id)
            except PenstockError:  # never stored, or ended; else its deadline ends it
                continue

    def _queues(self) -> set[str]:
        return {job.queue for job in self.jobs}

    async def _until_clients_could_return(self, queue: str) -> None:
        """Wait until Redis has been there for the grace time: without it no client can return."""
        replies, grace_s = self._carrier.replies, self._carrier.resume_grace_s
        while (left_s := grace_s - replies.connected_s(queue)) > 0:  # noqa: ASYNC110  no event for it
            await asyncio.sleep(left_s)

    async def _is_abandoned(self, job_id: str) -> bool:
        """Whether no client has taken a job up again, here or at another process."""
        replies = self._carrier.replies
        state = await self._carrier.queue.state(job_id)
        return state.reply == replies.channel and not replies.is_followed(job_id)
