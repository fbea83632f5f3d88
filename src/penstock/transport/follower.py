"""One client's place in one job's events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from penstock.contract.events import Event, Tokens

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
    that live events are missing: until the journal is read, further ones are not kept.
    """

    __slots__ = (
        "_buffer",
        "_waiter",
        "checked_s",
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
        self.tick_due = False
        self.heard_s = self.checked_s = self.ticked_s = time.monotonic()
        self._buffer: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

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
        if event.index >= self.next_index:
            taken.append(event)
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
