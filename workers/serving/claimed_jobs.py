"""The jobs that this worker has leased."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from penstock.clock import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.transport.jobs.queue import Claim
    from workers.serving.served_queue import ServedQueue

REMEMBERED: Final = 4096
"""Attempts whose ids are not used again."""


class Outcome(Enum):
    """How a ticket ended."""

    ENDED = "its job ended here, or was lost"
    EMPTY = "no job was waiting"
    FULL = "no slot was free; the bell is for other workers"
    PUT_BACK = "the queue was not looked into; the bell has to ring again"


def _ignore(_outcome: Outcome) -> None:
    """Do nothing: the worker looked without a bell."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request to look into a queue: a bell has rung, or the worker polls.

    If there is a job, `claimed` is called, and `done` when it has ended; otherwise `done` at once.
    Both are called from any thread; `done` is called exactly once per doorbell. `only_returned`
    claims only a job that another worker had, into an overflow slot. `called` promises a job to this
    worker, as a bell does, whatever its share of the queue is.
    """

    queue: str
    done: Callable[[Outcome], None] = _ignore
    has_bell: bool = True
    only_returned: bool = False
    called: bool = False
    claimed: Callable[[], None] = lambda: None
    rung_ns: int = field(default_factory=clock.now_ns)


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A leased job: from its claim until its terminal event is stored, or it is lost."""

    claim: Claim
    served: ServedQueue
    ticket: Ticket
    claimed_ns: int = field(default_factory=clock.now_ns)
    number: int = 0
    """How often this process has claimed this epoch of this job before."""

    @property
    def takes_slot(self) -> bool:
        """Whether it takes a slot, not an overflow slot."""
        return not self.ticket.only_returned

    @property
    def attempt_id(self) -> str:
        """The engine's id for it.

        Two attempts at one job (its lease ran out, and the job came back to the same process) must
        not share an id, or the old one's last step could pass for the new one's first. A Redis
        that has lost its memory gives out the same epochs again, hence the number.
        """
        name = f"{self.claim.job.id}:{self.claim.epoch}"
        return f"{name}.{self.number}" if self.number else name


class ClaimedJobs:
    """All leased jobs by attempt. Shared by the preparer, publisher and heartbeat threads.

    It also counts the taken slots. Only the preparer claims, so a slot that it sees free stays free.
    """

    def __init__(self) -> None:
        self._by_attempt: dict[str, ClaimedJob] = {}
        self._by_job: dict[str, str] = {}
        self._leased_s: dict[str, float] = {}
        self._taken: Counter[str] = Counter()
        self._numbers: OrderedDict[str, int] = OrderedDict()  # only the preparer's
        self._changed = threading.Condition()

    def number(self, claim: Claim) -> int:
        """Return how often this epoch of a job was claimed before, and count this time."""
        name = f"{claim.job.id}:{claim.epoch}"
        number = self._numbers.pop(name, 0)
        self._numbers[name] = number + 1
        while len(self._numbers) > REMEMBERED:
            self._numbers.popitem(last=False)
        return number

    def add(self, claimed: ClaimedJob) -> None:
        """Add a job of which no other attempt is leased."""
        with self._changed:
            self._by_attempt[claimed.attempt_id] = claimed
            self._by_job[claimed.claim.job.id] = claimed.attempt_id
            # Unknown: the claim's answer may have been slow.
            self._leased_s[claimed.attempt_id] = float("-inf")
            self._taken[claimed.served.queue] += claimed.takes_slot

    def taken(self, queue: str) -> int:
        """Return how many slots of a queue have a job, without overflow slots."""
        with self._changed:
            return self._taken[queue]

    def of(self, served: ServedQueue) -> list[ClaimedJob]:
        """Return the jobs of a queue, those in overflow slots too."""
        with self._changed:
            return [job for job in self._by_attempt.values() if job.served is served]

    def of_job(self, job_id: str) -> ClaimedJob | None:
        """Return the current attempt at a job, if it is leased."""
        with self._changed:
            return self._by_attempt.get(self._by_job.get(job_id, ""))

    def leased(self, attempts: Iterable[str], at_s: float) -> None:
        """Note that Redis was asked at `at_s` (monotonic) to renew these leases."""
        with self._changed:
            for attempt in attempts:
                if attempt in self._by_attempt:
                    self._leased_s[attempt] = at_s

    def leased_before(self, end_s: float) -> list[ClaimedJob]:
        """Return the jobs whose lease was not renewed since `end_s` (monotonic)."""
        with self._changed:
            return [job for key, job in self._by_attempt.items() if self._leased_s[key] < end_s]

    def get(self, attempt: str) -> ClaimedJob | None:
        """Return an attempt that is still leased."""
        return self._by_attempt.get(attempt)

    def pop(self, attempt: str) -> ClaimedJob | None:
        """Remove an attempt; None if it is not leased (any more)."""
        with self._changed:
            claimed = self._by_attempt.pop(attempt, None)
            if claimed is not None:
                del self._leased_s[attempt]
                self._taken[claimed.served.queue] -= claimed.takes_slot
                if self._by_job.get(claimed.claim.job.id) == attempt:
                    del self._by_job[claimed.claim.job.id]
                self._changed.notify_all()
            return claimed

    def all(self) -> list[ClaimedJob]:
        """Return all leased jobs."""
        with self._changed:
            return list(self._by_attempt.values())

    def wait_for_change(self, timeout_s: float) -> None:
        """Return when a job was removed, or after `timeout_s`; at once if there is none."""
        with self._changed:
            if self._by_attempt:
                self._changed.wait(timeout_s)

    def __len__(self) -> int:
        return len(self._by_attempt)
