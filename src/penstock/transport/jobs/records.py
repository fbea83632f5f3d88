"""What the queue's calls take and give back."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from penstock.contract.events import Event
from penstock.contract.job import Job


class JobStatus(StrEnum):
    """Where a job stands. A job leaves `WAITING` and `RUNNING` for exactly one of the others."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL_STATUSES = frozenset(
    {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED}
)


class JobState(msgspec.Struct, frozen=True):
    """A job's place in its life.

    `epoch` counts its claims. `next_index` is the number of tokens in its journal. `lost` counts
    the workers that died with it. `worker` is the last one that claimed it. `tenant` is whose job
    it is, `digest` the job's own.
    """

    job_id: str
    queue: str
    status: JobStatus
    epoch: int
    next_index: int
    lost: int
    cancel_requested: bool
    reply: str
    worker: str
    created_ms: int
    deadline_ms: int
    tenant: str
    digest: str = ""


class QueueDepth(msgspec.Struct, frozen=True):
    """How much waits on a queue and how much runs. `oldest_age_s` is the oldest waiting job's."""

    waiting_jobs: int
    waiting_tokens: int
    running: int
    oldest_age_s: float


class Claim(msgspec.Struct, frozen=True):
    """A leased job. `next_index` tokens are in its journal already; go on after them.

    `attempt` counts from 1: how often the job has been claimed.
    """

    job: Job
    epoch: int
    next_index: int
    attempt: int


class Claims(msgspec.Struct, frozen=True):
    """What one call has claimed, in the order of turns, and how many jobs still wait."""

    claims: tuple[Claim, ...]
    waiting: int


class Row(msgspec.Struct, frozen=True):
    """One event to write, under the epoch of the claim that it belongs to."""

    job_id: str
    epoch: int
    event: Event


class Refusal(msgspec.Struct, frozen=True):
    """A job that this worker must drop at once, without another word to its client.

    `fenced`: it is not this worker's any more. `cancelled` and `expired`: it has ended. `broken`:
    something else is in its keys' place.
    """

    job_id: str
    reason: Literal["fenced", "cancelled", "expired", "broken"]


class ReapResult(msgspec.Struct, frozen=True):
    """What one call of the reaper put right, and in how many seconds the next lease ends.

    `next_end_s` is None where nothing runs. Leases of the living are renewed long before.
    """

    requeued: int = 0
    poisoned: int = 0
    expired: int = 0
    rung: int = 0
    next_end_s: float | None = None
