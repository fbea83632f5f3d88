"""The interface to the workers that run jobs, whichever way jobs reach them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from api.http.resumption import Resumption
    from penstock.contract.events import Event
    from penstock.contract.job import Job
    from penstock.contract.worker import ModelCard


class Carrier(Protocol):
    """One way to workers. Shared by all requests of the process; owned by the event loop."""

    runs_detached: ClassVar[bool]
    """Whether a job keeps running without a follower."""

    def placement(
        self,
        card: ModelCard,
        jobs: Sequence[Job],
        resumption: Resumption | None,
        images: Mapping[str, bytes],
    ) -> Placement:
        """Return the placement of one request's jobs and their images; nothing is submitted yet."""
        ...


class Placement(Protocol):
    """The jobs of one request on their way to workers and back. Owned by the request's task."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs in the request's order, each with the queue that took it."""
        ...

    @property
    def submitted(self) -> bool:
        """Whether `submit` has been called."""
        ...

    def expect(self) -> None:
        """Prepare to receive the events of jobs that are about to be submitted."""
        ...

    async def submit(self) -> None:
        """Submit every job.

        :raises QueueFull: there is no room for one of them.
        :raises InvalidParameter: the request's `Idempotency-Key` was used for another request.
        :raises StoreUnavailable: Redis is away.
        """
        ...

    def follow(self, job: Job, *, tick_s: float) -> AsyncGenerator[Event | None, None]:
        """Yield a job's events from its first; None when silent for `tick_s`.

        :raises PenstockError: the job was lost, or its worker failed.
        """
        ...

    def ended(self, job_id: str) -> None:
        """Note that a job has ended by itself, so that `cancel` leaves it alone."""
        ...

    def unfollow(self) -> None:
        """Undo `expect` for jobs that are not followed."""
        ...

    def cancel(self) -> None:
        """Cancel, in the background, the jobs that have not ended.

        With an `Idempotency-Key` the client may come back: then its jobs are cancelled only after
        the grace time, unless it has.
        """
        ...
