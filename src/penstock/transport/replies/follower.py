"""One client's place in one job's events."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Event, Tokens
from penstock.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

BUFFER_EVENTS: Final = 256
"""Live events kept for a client that does not read; past it, the journal serves the rest."""


def index_after(event: Event) -> int:
    """Return the index of the event that follows."""
    return event.index + (len(event.token_ids) if isinstance(event, Tokens) else 1)


class Follower:
    """Orders the live events of a job and knows when the journal has to be read instead.

    Owned by the event loop. `next_index` is the index of the event to give out next. `stale` means
    that live events are missing: until the journal is read, further ones are not kept. `gone`: the
    job's keys are no more. `cut_off`: Redis has not answered for longer than we wait.
    """

    __slots__ = (
        "_buffer",
        "_given",
        "_given_from",
        "_known_until",
        "_waiter",
        "checked_s",
        "cut_off",
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
        self.cut_off = False
        self.tick_due = False
        self.heard_s = self.checked_s = self.ticked_s = time.monotonic()
        self._buffer: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._given = array("i")
        self._given_from = 0
        self._known_until = 0

    def resume_at(self, next_index: int) -> None:
        """Begin with the event at `next_index`; the client has those before it."""
        self.next_index = self._given_from = next_index

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

    def give_up(self) -> None:
        """Note that Redis stays away."""
        self.cut_off = True
        self.wake()

    def begin_again(self) -> None:
        """Follow the job from its first token: it was lost, and is made anew.

        What comes of it until the client's place is compared with what the client has, and not
        given out: a job has one text.

        :raises StoreUnavailable: its client has a part that we have not seen.
        """
        if self._given_from:
            raise StoreUnavailable("The job was lost with Redis's memory")
        self._known_until, self.next_index = self.next_index, 0
        self._buffer.clear()
        self.stale = True
        self.gone = False

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
        """Return those of the journal's events that were not given out yet."""
        taken: list[Event] = []
        for event in events:
            self._take(event, taken)
        return taken

    def _take(self, event: Event, taken: list[Event]) -> None:
        if event.index < self.next_index:
            return
        if self.next_index < self._known_until:
            self._compare(event)
        else:
            taken.append(event)
            if isinstance(event, Tokens):
                self._given.extend(event.token_ids)
        self.next_index = index_after(event)

    def _compare(self, event: Event) -> None:
        ids = array("i", event.token_ids if isinstance(event, Tokens) else ())
        end = event.index + len(ids)
        if not ids or end > self._known_until or ids != self._given[event.index : end]:
            raise StoreUnavailable(
                "The job was lost with Redis's memory, and comes out differently now"
            )

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
