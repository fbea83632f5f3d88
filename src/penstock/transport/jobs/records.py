"""What the queue's calls take and return."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Literal

import msgspec

from penstock.contract.events import Event
from penstock.contract.job import Job


class JobStatus(StrEnum):
    """A job's status. It changes from `WAITING` and `RUNNING` to exactly one of the others."""

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
    """A job's state.

    `epoch` counts its claims. `next_index` is the number of tokens in its journal. `lost` counts
    the workers that died with it. `worker` is the last one that claimed it. `tenant` owns the job;
    `digest` identifies its contents.
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
    """How many jobs wait and run; `oldest_age_s` is the age of the oldest waiting job."""

    waiting_jobs: int
    waiting_tokens: int
    running: int
    oldest_age_s: float


class PrefixHolder(Enum):
    """Who is known to hold the beginning of a claimed job's prompt in a prefix cache."""

    NONE = 0
    THIS = 1
    OTHER = 2


class Claim(msgspec.Struct, frozen=True):
    """A leased job. Its journal already has `next_index` tokens; generation continues after them.

    `attempt` counts from 1: how often the job has been claimed. `prefix` is which worker is known to
    hold the beginning of its prompt in its cache.
    """

    job: Job
    epoch: int
    next_index: int
    attempt: int
    prefix: PrefixHolder = PrefixHolder.NONE


class Claims(msgspec.Struct, frozen=True):
    """What one call has claimed, in order, and how many jobs still wait.

    `again_s` is the time after which to look again, if jobs were left to workers that hold their
    prompts; None if none was.
    """

    claims: tuple[Claim, ...]
    waiting: int
    again_s: float | None = None


class Row(msgspec.Struct, frozen=True):
    """One event to write, under the epoch of its claim."""

    job_id: str
    epoch: int
    event: Event


class Refusal(msgspec.Struct, frozen=True):
    """A job that this worker must drop at once, without writing anything more.

    `fenced`: another attempt has it now. `cancelled` and `expired`: it has ended. `broken`: one of
    its keys has another type.
    """

    job_id: str
    reason: Literal["fenced", "cancelled", "expired", "broken"]


class ReapResult(msgspec.Struct, frozen=True):
    """What one call of the reaper repaired, and in how many seconds the next lease ends.

    `next_end_s` is None if nothing runs. Live workers renew their leases long before.
    """

    requeued: int = 0
    poisoned: int = 0
    expired: int = 0
    rung: int = 0
    next_end_s: float | None = None
