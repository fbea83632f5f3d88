"""The worker's side of a queue: it claims, appends, renews and releases jobs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.contract.events import Event, Failed, Tokens
from penstock.contract.job import Job
from penstock.errors import Cancelled, DeadlineExceeded
from penstock.transport import keys
from penstock.transport.jobs import reaping
from penstock.transport.jobs.records import (
    Claim,
    Claims,
    JobStatus,
    PrefixHolder,
    ReapResult,
    Refusal,
    Row,
)
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently
from penstock.transport.store.scripting import Scripts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from penstock.settings import Settings

_job_decoder = msgspec.json.Decoder(Job)
_encoder = msgspec.json.Encoder()


def _terminal_status(event: Event) -> str:
    """Return the status that a terminal event gives its job; "" for any other event."""
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
        # It would take the next event's place in the journal.
        raise ValueError(f"an event without tokens: {event!r}")
    return (row.job_id, row.epoch, event.index, count, status, _encoder.encode(event))


def _refusals(reply: Sequence[bytes]) -> list[Refusal]:
    words = [word.decode(errors="replace") for word in reply]
    return [
        Refusal(job_id=job_id, reason=cast("Any", reason))
        for job_id, reason in zip(words[::2], words[1::2], strict=True)
    ]


class WorkerQueue:
    """The worker's side: synchronous, usable from every thread of the process."""

    def __init__(self, redis: redis.Redis, settings: Settings, worker_id: str) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._scripts = Scripts(redis, settings)

    def _run(self, name: str, queue: str, *args: str | bytes | int) -> Any:
        return patiently(
            lambda: self._scripts.run(name, queue, *args), self._settings.redis_patience_s
        )

    def claim(self, queue: str, *, only_returned: bool = False) -> Claim | None:
        """Lease the next waiting job in fair order; None if none waits.

        Jobs that a worker had before go first; with `only_returned`, only those are claimed.

        :raises StoreUnavailable: Redis stayed away.
        """
        claims = self._claim(queue, only_returned=only_returned, most=1, least=1, held=0)
        return claims.claims[0] if claims.claims else None

    def claim_many(
        self, queue: str, most: int, *, least: int, held: int, slots: int = 0, token_s: float = 0.0
    ) -> Claims:
        """Lease up to `most` waiting jobs, in the order in which `claim` would return them.

        On a queue that several workers serve, this one, which has leased `held` jobs already, takes
        no more than its share of all that wait and run, but at least `least` if so many wait.
        Doorbells that no waiting job needs any more are removed. Of a tenant's first jobs those
        are preferred whose prompts begin with what this worker has computed; those that another
        one has computed are left to it for at most the time that they would take here, at `token_s`
        a token (0: unknown), if it has a slot free. `slots` is how many this worker has.

        :raises StoreUnavailable: Redis stayed away.
        """
        return self._claim(
            queue,
            only_returned=False,
            most=most,
            least=least,
            held=held,
            slots=slots,
            token_us=round(token_s * 1e6),
        )

    def forget_heads(self, queue: str, digests: Sequence[str]) -> None:
        """Note that the cache has lost these heads of prompts; the others are held for longer.

        :raises StoreUnavailable: Redis stayed away.
        """
        self._run("forget", queue, self._worker_id, *digests)

    def forget_all_heads(self, queue: str) -> None:
        """Note that the cache is gone.

        :raises StoreUnavailable: Redis stayed away.
        """
        self._run("forget", queue, self._worker_id, "*")

    def _claim(
        self,
        queue: str,
        *,
        only_returned: bool,
        most: int,
        least: int,
        held: int,
        slots: int = 0,
        token_us: int = 0,
    ) -> Claims:
        """Claim. The call carries a token, so that it gets the same jobs when repeated."""
        token_ms = int(self._settings.redis_patience_s * 2000) + self._settings.lease_ms
        token = uuid.uuid4().hex
        (waiting, again_ms), *rows = self._run(
            "claim",
            queue,
            self._worker_id,
            token,
            token_ms,
            int(only_returned),
            most,
            least,
            held,
            slots,
            self._settings.affinity_wait_ms,
            token_us,
        )
        # One that cannot be read is left to its lease.
        prefix = keys.queue_prefix(queue)
        jobs = contents.readable(_job_decoder, ((prefix, payload) for payload, *_ in rows))
        claims = tuple(
            Claim(job, epoch, index, attempt=epoch, prefix=PrefixHolder(holder))
            for job, (_, epoch, index, holder) in zip(jobs, rows, strict=True)
            if job is not None
        )
        return Claims(claims, waiting, None if again_ms < 0 else again_ms / 1000)

    def append(self, queue: str, rows: Sequence[Row]) -> list[Refusal]:
        """Write one step's events, publish them, and renew the leases of their jobs.

        The rows of a job are in order. The rows of a refused job are not written; drop the job.

        :raises StoreUnavailable: Redis stayed away.
        :raises ValueError: a `Tokens` event without tokens.
        """
        if not rows:
            return []
        arguments = [argument for row in rows for argument in _row_arguments(row)]
        return _refusals(self._run("append", queue, self._worker_id, *arguments))

    def renew(self, queue: str, epochs: Mapping[str, int]) -> list[Refusal]:
        """Renew the leases of jobs. `epochs` maps their ids to epochs.

        :raises StoreUnavailable: Redis stayed away.
        """
        if not epochs:
            return []
        arguments = [argument for pair in epochs.items() for argument in pair]
        return _refusals(self._run("renew", queue, self._worker_id, *arguments))

    def release(self, queue: str, job_id: str, epoch: int) -> bool:
        """Return a job to its queue at its last written token; False if this epoch has lost it.

        It goes to the head of its tenant's line and does not count as lost with a worker.

        :raises StoreUnavailable: Redis stayed away.
        """
        return bool(self._run("release", queue, job_id, epoch, self._worker_id))

    def reap(self, queue: str) -> ReapResult:
        """Repair what dead workers, deadlines and lost doorbells left behind; see `reap.lua`."""
        arguments = reaping.arguments(self._settings)
        runs: list[list[int]] = []
        while not runs or reaping.stopped_early(runs):
            runs.append(self._run("reap", queue, *arguments))
        return reaping.result(runs)
