"""All followers of an API process, by their jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import Overloaded
from penstock.transport.replies.follower import Follower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.events import Event

SILENT_S: Final = 1.0
"""A follower's job is looked at after this long without an event, and as often again."""
MOST_READERS: Final = 32
"""Readers of one job at one process: each costs the event loop as much as a stream."""


class Followers:
    """Deals live events out to the followers of their jobs. Owned by one event loop.

    `expected` are followers of jobs that are about to be submitted, which have no reader yet.
    """

    def __init__(self) -> None:
        self._by_job: dict[str, list[Follower]] = {}
        self.expected: dict[str, Follower] = {}

    def __len__(self) -> int:
        return sum(len(followers) for followers in self._by_job.values())

    def __iter__(self) -> Iterator[Follower]:
        return (follower for followers in self._by_job.values() for follower in followers)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._by_job

    def check_room(self, job_id: str) -> None:
        """Check that a job may have another follower.

        :raises Overloaded: it already has as many as allowed.
        """
        if len(self._by_job.get(job_id, ())) >= MOST_READERS:
            raise Overloaded(f"This job's stream has {MOST_READERS} readers already")

    def expect(self, queue: str, job_id: str) -> None:
        """Keep the events of a job that has none yet, for the follower that `begin` makes."""
        follower = self.expected[job_id] = Follower(queue, job_id, 0.0)
        follower.stale = False

    def forget(self, job_id: str) -> None:
        """Expect a job no more."""
        self.expected.pop(job_id, None)

    def begin(self, queue: str, job_id: str, tick_s: float) -> Follower:
        """Return a job's new follower, which listens from now on or has done so before.

        :raises Overloaded: it already has as many as allowed.
        """
        self.check_room(job_id)
        follower = Follower(queue, job_id, tick_s)
        expected = self.expected.pop(job_id, None)
        if expected is not None:
            follower.take_over(expected)
        self._by_job.setdefault(job_id, []).append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Remove a follower that `begin` has returned."""
        followers = self._by_job[follower.job_id]
        followers.remove(follower)
        if not followers:
            del self._by_job[follower.job_id]

    def deliver(self, event: Event) -> None:
        """Hand a live event to its job's followers."""
        for follower in self._by_job.get(event.job_id, ()):
            follower.deliver(event)
        expected = self.expected.get(event.job_id)
        if expected is not None:
            expected.deliver(event)

    def miss(self) -> None:
        """Have every journal read: messages may have been lost, or Redis's data."""
        for follower in (*self, *self.expected.values()):
            follower.miss()

    def check(self) -> None:
        """Have every job looked at soon: messages may have been lost."""
        for follower in self:
            follower.heard_s = follower.checked_s = 0.0
        for expected in self.expected.values():
            expected.miss()

    def verify(self) -> None:
        """Have everything compared again that clients were given."""
        for follower in self:
            follower.verify()

    def tick(self, now_s: float) -> None:
        """Wake those whose clients have heard nothing for their tick."""
        for follower in self:
            if now_s - follower.ticked_s >= follower.tick_s and not follower.tick_due:
                follower.tick()

    def silent(self, now_s: float) -> list[Follower]:
        """Return those whose jobs are to be looked at."""
        return [
            follower
            for follower in self
            if now_s - max(follower.heard_s, follower.checked_s) >= SILENT_S
            and not follower.stale
            and not follower.has_live_events()
        ]
