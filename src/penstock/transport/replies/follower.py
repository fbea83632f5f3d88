"""One client's place in one job's events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Event, Failed, Tokens
from penstock.errors import StoreUnavailable
from penstock.transport.replies.given import Given

if TYPE_CHECKING:
    from collections.abc import Sequence

BUFFER_EVENTS: Final = 256
"""Live events kept for a client that does not read; past it, the journal serves the rest."""


def index_after(event: Event) -> int:
    """Return the index of the event that follows."""
    return event.index + (len(event.token_ids) if isinstance(event, Tokens) else 1)


class Follower:
    """Orders the live events of a job and knows when the journal has to be read instead.

    Owned by the event loop. `next_index` is the index of the event to take next. `stale` means
    that live events are missing: until the journal is read, further ones are not kept. `gone`: the
    job's keys are no more. `fault`: why nothing more can come, if it cannot.

    What was given out is remembered. A store that has lost its memory, or the last part of it, makes
    the answer again, from its start or from somewhere; whatever comes of it until the client's place
    is compared with what the client has, and not given out: a job has one text.
    """

    __slots__ = (
        "_buffer",
        "_given",
        "_is_aligned",
        "_waiter",
        "checked_s",
        "created",
        "fault",
        "gone",
        "heard_s",
        "job_id",
        "next_index",
        "queue",
        "stale",
        "tick_due",
        "tick_s",
        "ticked_s",
    )

    def __init__(self, queue: str, job_id: str, tick_s: float) -> None:
        self.queue = queue
        self.job_id = job_id
        self.tick_s = tick_s
        self.next_index = 0
        self.stale = True
        self.gone = False
        self.fault: StoreUnavailable | None = None
        self.created: bytes | None = None
        """When the job was stored, as the store has it: another time is another life of the job."""
        self.tick_due = False
        self.heard_s = self.checked_s = self.ticked_s = time.monotonic()
        self._buffer: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._given = Given()
        self._is_aligned = True

    def resume_at(self, next_index: int, *, is_aligned: bool = True) -> None:
        """Begin with the event at `next_index`; the client has those before it.

        Unless `is_aligned`, the first event may begin behind that place: it was never looked for.
        """
        self.next_index = next_index
        self._given = Given(next_index)
        self._is_aligned = is_aligned

    def take_over(self, earlier: Follower) -> None:
        """Begin with what an earlier follower of the job has kept, which nobody has read."""
        self._buffer, self.stale = earlier._buffer, earlier.stale

    def deliver(self, event: Event) -> None:
        """Take a live event."""
        if self.stale:
            return
        if len(self._buffer) >= BUFFER_EVENTS:
            self.miss()
            return
        self._buffer.append(event)
        self.wake()

    def miss(self) -> None:
        """Note that live events are missing."""
        self._buffer.clear()
        self.stale = True
        self.wake()

    def lose(self) -> None:
        """Note that the job's keys are gone."""
        self.gone = True
        self.wake()

    def fail(self, fault: StoreUnavailable) -> None:
        """Note that nothing more can come."""
        self.fault = fault
        self.wake()

    def begin_again(self) -> None:
        """Follow the job from its first token: it was lost, and is made again.

        :raises StoreUnavailable: its client has a part that we have not seen.
        """
        if self._given.begins_at:
            raise StoreUnavailable("The job was lost with Redis's memory")
        self.gone = False
        self.created = None
        self.verify()

    def follow_anew(self) -> None:
        """Do as `begin_again`: somebody else has submitted the job again. An error becomes `fault`."""
        try:
            self.begin_again()
        except StoreUnavailable as fault:
            self.fail(fault)

    def verify(self) -> None:
        """Compare all that the client has with the journal, which may have been written again."""
        self.next_index = self._given.begins_at
        self._given.read_again()
        self.miss()

    def fall_back(self, next_index: int, *, has_ended: bool) -> None:
        """Note that the job stands at `next_index`, before the client's place.

        Its store has lost the last part of the answer, which is made again from there; or its client
        has named a place that the answer never had.
        """
        if has_ended and next_index < self._given.begins_at:
            self.fail(StoreUnavailable("The client has more of this answer than there is"))
        elif next_index < self._given.until and self._given:
            self.verify()

    def knows(self, created: bytes | None) -> bool:
        """Return whether this is the job's life that is followed, and remember a first one."""
        if created is not None and self.created is None:
            self.created = created
        return created is None or created == self.created

    def tick(self) -> None:
        """Note that the client has heard nothing for its tick."""
        self.tick_due = True
        self.wake()

    def has_live_events(self) -> bool:
        """Return whether the client has something to read already."""
        return bool(self._buffer)

    def take_live(self) -> list[Event]:
        """Return the live events that continue the stream; a gap makes the follower stale."""
        taken: list[Event] = []
        while self._buffer:
            event = self._buffer.popleft()
            if event.index > self.next_index:
                self.miss()
                break
            self._take(event, taken)
        return taken

    def take_journal(self, events: Sequence[Event]) -> list[Event]:
        """Return those of the journal's events that were not given out yet.

        :raises StoreUnavailable: the journal has a gap, or holds another text than the client.
        """
        taken: list[Event] = []
        for event in events:
            self._take(event, taken)
        return taken

    def _take(self, event: Event, taken: list[Event]) -> None:
        if isinstance(event, Failed):
            taken.append(event)  # wherever it stands: an answer without an end is none
            return
        if event.index > self.next_index:
            if self._is_aligned:
                raise StoreUnavailable("A part of the answer was lost with Redis's memory")
            self._given = Given(event.index)
        elif event.index < self._given.until:
            rest = self._given.compare(event)
            if rest is not None:
                taken.append(self._given.add(rest))
            self.next_index = max(self.next_index, index_after(event))
            return
        self._is_aligned = True
        taken.append(self._given.add(event))
        self.next_index = index_after(event)

    def wake(self) -> None:
        """Let `wait` return."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until there is something to do; there is no timer, one ticker serves all."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
