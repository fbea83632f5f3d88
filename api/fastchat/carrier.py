"""Jobs that are calls to FastChat's own workers: they never reach a queue of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from api.fastchat import relay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from api.fastchat.peers import Peers
    from api.http.resumption import Resumption
    from penstock.contract.events import Event
    from penstock.contract.job import Job
    from penstock.contract.worker import ModelCard


class FastChatCarrier:
    """The `Carrier` of models that FastChat's workers serve."""

    runs_detached: ClassVar[bool] = False

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def placement(
        self,
        card: ModelCard,
        jobs: Sequence[Job],
        resumption: Resumption | None,
        images: Mapping[str, bytes],
    ) -> FastChatPlacement:
        """Return the placement of one request's jobs.

        FastChat stores no answers: a repeated request is generated again.
        """
        del card, resumption
        return FastChatPlacement(self._peers, jobs, images)


class FastChatPlacement:
    """The `Placement` of jobs that start when they are followed, and end with their followers."""

    def __init__(self, peers: Peers, jobs: Sequence[Job], images: Mapping[str, bytes]) -> None:
        self.jobs = tuple(jobs)
        self._images = images
        self.submitted = False
        self._peers = peers

    def expect(self) -> None:
        """Do nothing: `follow` makes the call and reads its answer."""

    async def submit(self) -> None:
        """Submit nothing: `follow` makes the call."""
        self.submitted = True

    def follow(self, job: Job, *, tick_s: float) -> AsyncGenerator[Event | None, None]:
        """Yield all of a job's events.

        :raises PenstockError: as `relay.follow`.
        """
        return relay.follow(self._peers, job, self._images, tick_s)

    def ended(self, job_id: str) -> None:
        """Do nothing: a call that has ended is over."""

    def unfollow(self) -> None:
        """Do nothing: nothing was expected."""

    def cancel(self) -> None:
        """Do nothing: closing what `follow` returned has closed the call."""
