"""Both sides of a queue: the API submits and cancels; a worker (`worker_queue`) claims and appends.

Every method is one Lua script (`transport/store/scripts/`), retried while Redis is away for up to
`settings.redis_patience_s`. All of them may be repeated after an answer was lost.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.errors import QueueFull, UnknownJob
from penstock.transport import keys
from penstock.transport.jobs import reaping
from penstock.transport.jobs.records import (
    TERMINAL_STATUSES,
    Claim,
    Claims,
    JobState,
    JobStatus,
    QueueDepth,
    ReapResult,
    Refusal,
    Row,
)
from penstock.transport.jobs.worker_queue import WorkerQueue
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.grouped import Stores, stores_of
from penstock.transport.store.scripting import AsyncScripts
from penstock.transport.store.searching import first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import redis.asyncio

    from penstock.contract.job import Job
    from penstock.settings import Settings

__all__ = [
    "TERMINAL_STATUSES",
    "Claim",
    "Claims",
    "JobQueue",
    "JobState",
    "JobStatus",
    "QueueDepth",
    "ReapResult",
    "Refusal",
    "Row",
    "WorkerQueue",
]

RETRY_AFTER_UNKNOWN_S: Final = 5.0
RETRY_AFTER_MOST_S: Final = 60.0

_STATE_FIELDS: Final = (
    "state",
    "epoch",
    "next",
    "lost",
    "cancel",
    "reply",
    "worker",
    "created",
    "deadline",
    "tenant",
    "digest",
)

_encoder = msgspec.json.Encoder()


def _retry_after_s(jobs_over: int, finishes_per_s: float) -> float:
    """Return in how many seconds there may be room, from the rate at which the queue's jobs end."""
    if finishes_per_s <= 0:
        return RETRY_AFTER_UNKNOWN_S
    return float(min(max(math.ceil(jobs_over / finishes_per_s), 1), RETRY_AFTER_MOST_S))


def _state(queue: str, job_id: str, fields: Sequence[Any]) -> JobState:
    """Return a job's state of the fields `_STATE_FIELDS`."""
    status, epoch, next_index, lost, cancel, reply, worker, created, deadline, tenant, digest = (
        fields
    )
    return JobState(
        job_id=job_id,
        queue=queue,
        status=JobStatus(status.decode()),
        epoch=int(epoch),
        next_index=int(next_index),
        lost=int(lost),
        cancel_requested=cancel == b"1",
        reply=reply.decode(),
        worker=worker.decode(),
        created_ms=int(created),
        deadline_ms=int(deadline),
        tenant=tenant.decode(),
        digest=digest.decode(),
    )


class JobQueue:
    """The API's side: asynchronous, owned by one event loop."""

    def __init__(self, redis: redis.asyncio.Redis | Stores, settings: Settings) -> None:
        stores = stores_of(redis)
        self._redis = stores.map(lambda client: cast("Any", client))
        self._settings = settings
        self._clocks = stores.clocks
        self._scripts = stores.map(lambda client: AsyncScripts(client, settings))

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await patiently_async(call, self._settings.redis_patience_s)

    async def now_ms(self, queue: str) -> int:
        """Return the clock of a queue's Redis, for a job's `created_ms` and `deadline_ms`.

        A round trip happens only if this process has not asked that Redis recently.

        :raises StoreUnavailable:
        """
        clock, redis = self._clocks.of(queue), self._redis.of(queue)

        async def ask() -> None:
            asked_s = time.monotonic()
            clock.hear(await redis.time(), asked_s)

        if not clock.is_fresh:
            await self._patiently(ask)
        return clock.now_ms()

    async def submit(self, job: Job) -> bool:
        """Store a job and ring a doorbell; False if a job with this id exists already.

        :raises QueueFull: the queue is at its limit; nothing was stored.
        :raises StoreUnavailable: Redis stayed away, or is out of memory.
        """
        settings = self._settings
        scripts = self._scripts.of(job.queue)
        answer = await self._patiently(
            lambda: scripts.run_shared(
                "submit",
                job.queue,
                job.id,
                _encoder.encode(job),
                job.reply,
                job.tenant,
                min(max(job.priority, 0), 9),
                max(job.cost_tokens, 1),
                job.deadline_ms,
                settings.max_waiting_jobs,
                settings.max_waiting_tokens,
                job.digest,
                " ".join(f"{head.digest}:{head.tokens}:{head.kept:d}" for head in job.heads),
            )
        )
        if answer[0] < 0:
            raise QueueFull(
                f"the queue {job.queue} is full",
                retry_after_s=_retry_after_s(answer[1], float(answer[2])),
            )
        # The worker has the job already; recording where to find it delays nobody.
        life_ms = await self._life_ms(job)
        await self._patiently(
            lambda: scripts.together.run("SET", keys.locate(job.id), job.queue, "PX", life_ms)
        )
        return answer[0] == 1

    async def place(self, job: Job) -> str:
        """Return the queue of a job whose id the client chose; the first request decides.

        A repeated request may have been placed on another queue, whose Redis may be another one:
        this is decided at home.

        :raises StoreUnavailable: Redis stayed away.
        """
        key = keys.locate(job.id)
        life_ms = await self._life_ms(job)
        home = self._redis.home
        await self._patiently(lambda: home.set(key, job.queue, nx=True, px=life_ms))
        queue = await self._patiently(lambda: home.get(key))
        return job.queue if queue is None else contents.text(queue, key)

    async def _life_ms(self, job: Job) -> int:
        """Return for how many ms a job can be found: until its deadline plus the journal's time."""
        left_ms = max(job.deadline_ms - await self.now_ms(job.queue), 0)
        return left_ms + self._settings.journal_ttl_s * 1000

    async def locate(self, job_id: str) -> str:
        """Return a job's queue; every Redis is asked.

        :raises UnknownJob: no such job, or its journal has expired.
        :raises StoreUnavailable: a Redis that may have it stayed away.
        """

        def asked(client: Any) -> Awaitable[Any]:
            return self._patiently(lambda: client.get(keys.locate(job_id)))

        queue = await first_of(asked(client) for client in self._redis.all())
        if queue is None:
            raise UnknownJob(f"no such job: {job_id}")
        return contents.text(queue, keys.locate(job_id))

    async def cancel(self, job_id: str) -> str:
        """Cancel a job; return "cancelled" (it waited), "requested" (it runs) or its last status.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        answer = await self._patiently(lambda: self._scripts.of(queue).run("cancel", queue, job_id))
        if answer is None:
            raise UnknownJob(f"no such job: {job_id}")
        return contents.text(answer, keys.job(queue, job_id))

    async def state(self, job_id: str) -> JobState:
        """Return a job's state.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        fields = await self._patiently(
            lambda: self._redis.of(queue).hmget(keys.job(queue, job_id), _STATE_FIELDS)
        )
        if fields[0] is None:
            raise UnknownJob(f"no such job: {job_id}")
        try:
            return _state(queue, job_id, fields)
        except (AttributeError, TypeError, ValueError) as error:  # a field that is not ours
            raise contents.foreign(keys.job(queue, job_id), error) from error

    async def redirect(self, job_id: str, reply: str) -> None:
        """Move the live events of a resumed stream's job to another channel.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        scripts = self._scripts.of(queue)
        moved = await self._patiently(lambda: scripts.run("redirect", queue, job_id, reply))
        if not moved:
            raise UnknownJob(f"no such job: {job_id}")

    async def depth(self, queue: str) -> QueueDepth:
        """Return how many jobs wait on a queue and how many run."""
        jobs, tokens, running, age_ms = await self._patiently(
            lambda: self._scripts.of(queue).run("depth", queue)
        )
        return QueueDepth(
            waiting_jobs=jobs,
            waiting_tokens=tokens,
            running=running,
            oldest_age_s=max(age_ms, 0) / 1000,
        )

    async def reap(self, queue: str) -> ReapResult:
        """Repair what dead workers, deadlines and lost doorbells left behind; see `reap.lua`."""
        arguments, scripts = reaping.arguments(self._settings), self._scripts.of(queue)
        runs: list[list[int]] = []
        while not runs or reaping.stopped_early(runs):
            runs.append(await self._patiently(lambda: scripts.run("reap", queue, *arguments)))
        return reaping.result(runs)
