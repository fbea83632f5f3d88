"""The two sides of a queue: the API submits and cancels, a worker claims and appends.

Every method is one Lua script (`transport/scripts/`), retried while Redis is away for up to
`settings.redis_patience_s`. All of them bear being repeated after an answer was lost.
"""

from __future__ import annotations

import math
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.clock import clock
from penstock.contract.events import Event, Failed, Tokens
from penstock.contract.job import Job
from penstock.errors import Cancelled, DeadlineExceeded, QueueFull, UnknownJob
from penstock.transport import keys
from penstock.transport.connection import patiently, patiently_async
from penstock.transport.records import (
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
from penstock.transport.scripting import AsyncScripts, Scripts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import redis
    import redis.asyncio

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

REAP_PAUSE_MS: Final = 250
"""Redis itself refuses to reap a queue more often, however many processes ask, but for a lease that
is over."""
REAP_MOST: Final = 64
"""Leases, deadlines and doorbells that one run of the reaper looks at: it holds Redis up."""
REAP_RUNS: Final = 32
"""Runs that one call may need: a rack of workers can die at once."""
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

_job_decoder = msgspec.json.Decoder(Job)
_encoder = msgspec.json.Encoder()


def _reap_arguments(settings: Settings) -> tuple[int, int, int]:
    return (settings.max_attempts, min(REAP_PAUSE_MS, settings.lease_ms // 8), REAP_MOST)


def _reap_result(runs: Sequence[Sequence[int]]) -> ReapResult:
    requeued, poisoned, expired, rung, _ = map(sum, zip(*runs, strict=True))
    left_ms = runs[-1][4]
    return ReapResult(
        requeued=requeued,
        poisoned=poisoned,
        expired=expired,
        rung=rung,
        next_end_s=None if left_ms < 0 else left_ms / 1000,
    )


def _stopped_early(runs: Sequence[Sequence[int]]) -> bool:
    """Return whether the last run has left jobs behind, and another may follow at once."""
    return sum(runs[-1][:3]) >= REAP_MOST and len(runs) < REAP_RUNS


def _retry_after_s(jobs_over: int, finishes_per_s: float) -> float:
    """Return when a place may be free, from the rate at which jobs of the queue end."""
    if finishes_per_s <= 0:
        return RETRY_AFTER_UNKNOWN_S
    return float(min(max(math.ceil(jobs_over / finishes_per_s), 1), RETRY_AFTER_MOST_S))


def _terminal_status(event: Event) -> str:
    """Return the state that an event puts its job into, "" for one that does not end it."""
    if isinstance(event, Tokens):
        return ""
    if isinstance(event, Failed):
        ended = {Cancelled.code: JobStatus.CANCELLED, DeadlineExceeded.code: JobStatus.EXPIRED}
        return ended.get(event.code, JobStatus.FAILED).value
    return JobStatus.FINISHED.value


def _row_arguments(row: Row) -> tuple[str | bytes | int, ...]:
    event = row.event
    count = len(event.token_ids) if isinstance(event, Tokens) else 0
    status = _terminal_status(event)
    if not count and not status:
        # It would take the journal's place of the next one.
        raise ValueError(f"an event without tokens: {event!r}")
    return (row.job_id, row.epoch, event.index, count, status, _encoder.encode(event))


def _refusals(reply: Sequence[bytes]) -> list[Refusal]:
    words = [word.decode() for word in reply]
    return [
        Refusal(job_id=job_id, reason=cast("Any", reason))
        for job_id, reason in zip(words[::2], words[1::2], strict=True)
    ]


class JobQueue:
    """The API's side: asynchronous, of one event loop."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._settings = settings
        self._scripts = AsyncScripts(redis, settings)

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await patiently_async(call, self._settings.redis_patience_s)

    async def now_ms(self) -> int:
        """Return Redis's clock, for a job's `created_ms` and `deadline_ms`.

        A round trip only where nobody in this process has asked Redis of late.

        :raises StoreUnavailable:
        """
        if not clock.is_fresh:
            await self._patiently(self._look_at_the_clock)
        return clock.now_ms()

    async def _look_at_the_clock(self) -> None:
        asked_s = time.monotonic()
        clock.hear(await self._redis.time(), asked_s)

    async def submit(self, job: Job) -> bool:
        """Store a job and ring a worker; False if this id was there already.

        :raises QueueFull: the queue is at its bound; nothing was stored.
        :raises StoreUnavailable: Redis stayed away, or is out of memory.
        """
        settings = self._settings
        answer = await self._patiently(
            lambda: self._scripts.run_together(
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
            )
        )
        if answer[0] < 0:
            raise QueueFull(
                f"the queue {job.queue} is full",
                retry_after_s=_retry_after_s(answer[1], float(answer[2])),
            )
        # The worker is at it already: where the job is to be found delays nobody.
        life_ms = await self._life_ms(job)
        await self._patiently(
            lambda: self._scripts.together.run("SET", keys.locate(job.id), job.queue, "PX", life_ms)
        )
        return answer[0] == 1

    async def place(self, job: Job) -> str:
        """Settle which queue a job with an id of the client's making is on; the first word counts.

        A repeated request may be meant for another queue by then.

        :raises StoreUnavailable: Redis stayed away.
        """
        key = keys.locate(job.id)
        life_ms = await self._life_ms(job)
        await self._patiently(lambda: self._redis.set(key, job.queue, nx=True, px=life_ms))
        queue = await self._patiently(lambda: self._redis.get(key))
        return job.queue if queue is None else queue.decode()

    async def _life_ms(self, job: Job) -> int:
        """Return for how long a job can be found: until its deadline, then its journal's time."""
        left_ms = max(job.deadline_ms - await self.now_ms(), 0)
        return left_ms + self._settings.journal_ttl_s * 1000

    async def locate(self, job_id: str) -> str:
        """Return a job's queue.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self._patiently(lambda: self._redis.get(keys.locate(job_id)))
        if queue is None:
            raise UnknownJob(f"no such job: {job_id}")
        return queue.decode()

    async def cancel(self, job_id: str) -> str:
        """Return "cancelled" (it waited), "requested" (it runs) or the state it had ended in.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        answer = await self._patiently(lambda: self._scripts.run("cancel", queue, job_id))
        if answer is None:
            raise UnknownJob(f"no such job: {job_id}")
        return answer.decode()

    async def state(self, job_id: str) -> JobState:
        """Return where a job stands.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        found = await self._patiently(
            lambda: self._redis.hmget(keys.job(queue, job_id), _STATE_FIELDS)
        )
        if found[0] is None:
            raise UnknownJob(f"no such job: {job_id}")
        (
            status,
            epoch,
            next_index,
            lost,
            cancel,
            reply,
            worker,
            created,
            deadline,
            tenant,
            digest,
        ) = found
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

    async def redirect(self, job_id: str, reply: str) -> None:
        """Move the live events of a resumed stream's job to another channel.

        :raises UnknownJob: no such job, or its journal has expired.
        """
        queue = await self.locate(job_id)
        found = await self._patiently(lambda: self._scripts.run("redirect", queue, job_id, reply))
        if not found:
            raise UnknownJob(f"no such job: {job_id}")

    async def depth(self, queue: str) -> QueueDepth:
        """Return how much waits on a queue and how much runs."""
        jobs, tokens, running, age_ms = await self._patiently(
            lambda: self._scripts.run("depth", queue)
        )
        return QueueDepth(
            waiting_jobs=jobs,
            waiting_tokens=tokens,
            running=running,
            oldest_age_s=max(age_ms, 0) / 1000,
        )

    async def reap(self, queue: str) -> ReapResult:
        """Put right what dead workers, deadlines and lost doorbells left; see `reap.lua`."""
        arguments = _reap_arguments(self._settings)
        runs: list[list[int]] = []
        while not runs or _stopped_early(runs):
            runs.append(await self._patiently(lambda: self._scripts.run("reap", queue, *arguments)))
        return _reap_result(runs)


class WorkerQueue:
    """The worker's side: synchronous, for every thread of the process."""

    def __init__(self, redis: redis.Redis, settings: Settings, worker_id: str) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._scripts = Scripts(redis, settings)

    def _run(self, name: str, queue: str, *args: str | bytes | int) -> Any:
        return patiently(
            lambda: self._scripts.run(name, queue, *args), self._settings.redis_patience_s
        )

    def claim(self, queue: str, *, only_returned: bool = False) -> Claim | None:
        """Lease the fairest waiting job; None where none waits.

        Jobs that a worker had before go first; with `only_returned` there are no others.

        :raises StoreUnavailable: Redis stayed away.
        """
        found = self._claim(queue, only_returned=only_returned, most=1, least=1, held=0)
        return found.claims[0] if found.claims else None

    def claim_many(self, queue: str, most: int, *, least: int, held: int) -> Claims:
        """Lease up to `most` waiting jobs, in the order in which `claim` would give them.

        Of a queue that several workers serve, this one, which holds `held` jobs, takes no more than
        makes its share of all that wait and run; but `least`, where so many wait. Bells that no
        waiting job needs any more are taken back.

        :raises StoreUnavailable: Redis stayed away.
        """
        return self._claim(queue, only_returned=False, most=most, least=least, held=held)

    def _claim(
        self, queue: str, *, only_returned: bool, most: int, least: int, held: int
    ) -> Claims:
        """Claim. The call carries a token: repeated after a lost answer, it gets the same jobs."""
        token_ms = int(self._settings.redis_patience_s * 2000) + self._settings.lease_ms
        token = uuid.uuid4().hex
        waiting, *found = self._run(
            "claim",
            queue,
            self._worker_id,
            token,
            token_ms,
            int(only_returned),
            most,
            least,
            held,
        )
        claims = tuple(
            Claim(job=_job_decoder.decode(payload), epoch=epoch, next_index=index, attempt=epoch)
            for payload, epoch, index in found
        )
        return Claims(claims, waiting)

    def append(self, queue: str, rows: Sequence[Row]) -> list[Refusal]:
        """Write one step's events, publish them, and renew the leases of their jobs.

        Rows of a job are in order. A refused job's rows are not written; drop the job.

        :raises StoreUnavailable: Redis stayed away.
        :raises ValueError: a `Tokens` event without tokens.
        """
        if not rows:
            return []
        arguments = [argument for row in rows for argument in _row_arguments(row)]
        return _refusals(self._run("append", queue, self._worker_id, *arguments))

    def renew(self, queue: str, held: Mapping[str, int]) -> list[Refusal]:
        """Renew the leases of jobs that are held, by id and epoch.

        :raises StoreUnavailable: Redis stayed away.
        """
        if not held:
            return []
        arguments = [argument for pair in held.items() for argument in pair]
        return _refusals(self._run("renew", queue, self._worker_id, *arguments))

    def release(self, queue: str, job_id: str, epoch: int) -> bool:
        """Hand a job back at its last written token; False if this epoch held it no more.

        It goes to the head of its tenant's line and does not count as a lost worker.

        :raises StoreUnavailable: Redis stayed away.
        """
        return bool(self._run("release", queue, job_id, epoch, self._worker_id))

    def reap(self, queue: str) -> ReapResult:
        """Put right what dead workers, deadlines and lost doorbells left; see `reap.lua`."""
        arguments = _reap_arguments(self._settings)
        runs: list[list[int]] = []
        while not runs or _stopped_early(runs):
            runs.append(self._run("reap", queue, *arguments))
        return _reap_result(runs)
