"""One client's position in one job's events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Event, Failed, Tokens
from penstock.errors import StoreUnavailable
from penstock.transport.replies.sent_answer import SentAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

BUFFER_EVENTS: Final = 256
"""Live events buffered for a slow client; past it, the journal serves the rest."""


def index_after(event: Event) -> int:
    """Return the index of the event that follows."""
    return event.index + (len(event.token_ids) if isinstance(event, Tokens) else 1)


class Follower:
    """Puts a job's live events in order, and knows when the journal has to be read instead.

    Owned by the event loop. `next_index` is the index of the next event to yield. `stale`: live
    events are missing, and further ones are dropped until the journal is read. `gone`: the job's
    keys no longer exist. `fault`: why nothing more can come, if so.

    The follower remembers what it has yielded. A store that has lost its data, or the last part of
    it, leads to the answer being generated again. Replayed tokens up to the client's position are
    compared with what the client has, not sent again: a job has one text.
    """

    __slots__ = (
        "_buffer",
        "_sent",
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
        """The job's creation time in the store; it differs if the job was submitted again."""
        self.tick_due = False
        self.heard_s = self.checked_s = self.ticked_s = time.monotonic()
        self._buffer: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._sent = SentAnswer()

    def take_over(self, earlier: Follower) -> None:
        """Start with the unread buffered events of an earlier follower of the job."""
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
        """Record that live events are missing."""
        self._buffer.clear()
        self.stale = True
        self.wake()

    def lose(self) -> None:
        """Record that the job's keys are gone."""
        self.gone = True
        self.wake()

    def fail(self, fault: StoreUnavailable) -> None:
        """Record that nothing more can come."""
        self.fault = fault
        self.wake()

    def begin_again(self) -> None:
        """Follow the job from its first token: it was lost and is generated again."""
        self.gone = False
        self.created = None
        self.verify()

    def verify(self) -> None:
        """Compare all that the client has with the journal, which may have been rewritten."""
        self.next_index = 0
        self._sent.read_again()
        self.miss()

    def fall_back(self, next_index: int) -> None:
        """Record that the job is at `next_index`, before the client's position.

        The store has lost the last part of the answer, which is generated again from there.
        """
        if next_index < self._sent.until and self._sent:
            self.verify()

    def knows(self, created: bytes | None) -> bool:
        """Return whether `created` is the job that is followed; the first value is remembered."""
        if created is not None and self.created is None:
            self.created = created
        return created is None or created == self.created

    def tick(self) -> None:
        """Record that the client has received nothing for its tick."""
        self.tick_due = True
        self.wake()

    def has_live_events(self) -> bool:
        """Return whether events are buffered for the client."""
        return bool(self._buffer)

    def take_live(self) -> list[Event]:
        """Return the buffered events that continue the stream; a gap makes the follower stale."""
        events: list[Event] = []
        while self._buffer:
            event = self._buffer.popleft()
            if event.index > self.next_index:
                self.miss()
                break
            self._take(event, events)
        return events

    def take_journal(self, events: Sequence[Event]) -> list[Event]:
        """Return those of the journal's events that the client has not had.

        :raises StoreUnavailable: the journal has a gap, or its text differs from the client's.
        """
        taken: list[Event] = []
        for event in events:
            self._take(event, taken)
        return taken

    def _take(self, event: Event, events: list[Event]) -> None:
        if isinstance(event, Failed):
            events.append(event)  # whatever its index: an answer must end
            return
        if event.index > self.next_index:
            raise StoreUnavailable("A part of the answer was lost with Redis's memory")
        repeated = event.index < self.next_index
        if repeated and self._sent.reads_again and index_after(event) > self.next_index:
            self.verify()  # it is cut differently from what was compared
            return
        if event.index < self._sent.until:
            missing = self._sent.compare(event, repeated=repeated)
            if missing is not None:
                events.append(self._sent.add(missing))
            self.next_index = max(self.next_index, index_after(event))
            return
        events.append(self._sent.add(event))
        self.next_index = index_after(event)

    def wake(self) -> None:
        """Make `wait` return."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until there is something to do; without a timer, because one ticker serves all."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
