"""What Redis holds of each job, looked at some seconds after its client had the answer."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis

from penstock.contract.events import Finished, Tokens
from penstock.transport import keys
from penstock.transport.jobs import journal
from tests.chaos.fleet import QUEUE, queue_of

if TYPE_CHECKING:
    from tests.chaos.faults import Faults
    from tests.chaos.load import Outcome

AFTER_S = 5.0
"""Longer than leases live: whoever still wants to write to a job has tried by then."""
EVERY_S = 1.0


@dataclass
class Audit:
    """Jobs that ended, and what was wrong with them in Redis.

    A job that overlaps a loss is left out: Redis may have forgotten it.
    """

    faults: Faults
    store_url: str
    checked: int = 0
    forgotten: int = 0
    faults_found: list[str] = field(default_factory=list)
    _due: list[Outcome] = field(default_factory=list)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    """The thread of a look goes on when its task is cancelled."""

    def note(self, outcome: Outcome) -> None:
        """Look at a job later."""
        if outcome.job_id and outcome.finish_reason and not outcome.error:
            self._due.append(outcome)

    async def run(self) -> None:
        """Look at what is due until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.to_thread(self.look, AFTER_S)

    def look(self, after_s: float = 0.0) -> None:
        """Check the jobs that ended so long ago; those of a Redis that is away stay due."""
        with self._looking:
            self._look(after_s)

    def _look(self, after_s: float) -> None:
        due = [one for one in self._due if time.monotonic() - one.ended_s >= after_s]
        if not due:
            return
        with redis.Redis.from_url(self.store_url, protocol=2, socket_timeout=30.0) as client:
            for outcome in due:
                try:
                    found = _journal_faults(client, outcome)
                except redis.RedisError:
                    return
                self._due.remove(outcome)
                if self.overlaps_a_loss(outcome):
                    self.forgotten += 1
                else:
                    self.checked += 1
                    self.faults_found += found

    def overlaps_a_loss(self, outcome: Outcome) -> bool:
        """Return whether Redis has lost something since this job's client first asked."""
        return any(loss.ended_s >= outcome.begun_s for loss in self.faults.losses)

    def overlapped_a_loss(self, outcome: Outcome) -> bool:
        """Return whether Redis lost something while this job's client waited."""
        return any(
            loss.begun_s <= outcome.ended_s and loss.ended_s + AFTER_S >= outcome.begun_s
            for loss in self.faults.losses
        )


def journal_text(store_url: str, job_id: str, queue: str = QUEUE) -> str | None:
    """Return what a job's journal holds; None without a job."""
    if not job_id:
        return None
    with redis.Redis.from_url(store_url, protocol=2, socket_timeout=30.0) as client:
        events = journal.read(client, queue, job_id, limit=100_000)
    return "".join(event.text for event in events if isinstance(event, Tokens | Finished))


def _journal_faults(client: redis.Redis, outcome: Outcome) -> list[str]:
    queue = queue_of(outcome.ask.model)
    status = client.hget(keys.job(queue, outcome.job_id), "state")
    events = journal.read(client, queue, outcome.job_id, limit=100_000)
    faults: list[str] = []
    if status != b"finished":
        faults.append(f"{outcome.job_id}: its state is {status!r}")
    expected = 0
    for event in events:
        if event.index != expected:
            faults.append(f"{outcome.job_id}: index {event.index} where {expected} belongs")
            break
        expected += len(event.token_ids) if isinstance(event, Tokens) else 0
    ends = [event for event in events if not isinstance(event, Tokens)]
    if len(ends) != 1 or not isinstance(events[-1], Finished):
        faults.append(f"{outcome.job_id}: {len(ends)} terminal events")
    text = "".join(event.text for event in events if isinstance(event, Tokens | Finished))
    expected_text = outcome.ask.journal_text
    if text != (outcome.ask.text if expected_text is None else expected_text):
        faults.append(f"{outcome.job_id}: its journal's text is not the undisturbed one")
    return faults
