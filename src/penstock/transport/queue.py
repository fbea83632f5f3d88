"""The two sides of a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.transport.records import Claim, JobState, QueueDepth, ReapResult, Refusal, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis
    import redis.asyncio

    from penstock.contract.job import Job
    from penstock.settings import Settings

__all__ = [
    "Claim", "JobQueue", "JobState", "QueueDepth", "ReapResult", "Refusal", "Row", "WorkerQueue",
]


class JobQueue:
    """The API's side: asynchronous."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None: ...

    async def now_ms(self) -> int:
        """Return Redis's clock, for a job's `created_ms` and `deadline_ms` (no round trip mostly)."""
        raise NotImplementedError

    async def submit(self, job: Job) -> bool:
        """Store a job and ring; False if this id was there already.

        :raises QueueFull: the bound is reached; nothing was stored.
        :raises StoreUnavailable:
        """
        raise NotImplementedError

    async def cancel(self, job_id: str) -> str:
        """Return "cancelled" (was waiting), "requested" (running) or the terminal state.

        :raises UnknownJob:
        """
        raise NotImplementedError

    async def state(self, job_id: str) -> JobState:
        """:raises UnknownJob:"""  # noqa: D415
        raise NotImplementedError

    async def redirect(self, job_id: str, reply: str) -> None:
        """Move the live events of a resumed stream's job to another API process's channel."""
        raise NotImplementedError

    async def depth(self, queue: str) -> QueueDepth:
        raise NotImplementedError

    async def reap(self, queue: str) -> ReapResult:
        raise NotImplementedError


class WorkerQueue:
    """The worker's side: synchronous, any thread."""

    def __init__(self, redis: redis.Redis, settings: Settings, worker_id: str) -> None: ...

    def claim(self, queue: str) -> Claim | None:
        raise NotImplementedError

    def append(self, queue: str, rows: Sequence[Row]) -> list[Refusal]:
        raise NotImplementedError

    def renew(self, queue: str, held: Mapping[str, int]) -> list[Refusal]:
        raise NotImplementedError

    def release(self, queue: str, job_id: str, epoch: int) -> bool:
        raise NotImplementedError

    def reap(self, queue: str) -> ReapResult:
        raise NotImplementedError
