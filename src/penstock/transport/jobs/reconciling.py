"""Open jobs that have lost their place in line, their lease or their deadline get it back.

Our scripts move a job from one place to the next in one step, and the reaper goes by these places.
If one of their keys is deleted, a job is in none of them, and would not be found before
its deadline. This looks at the jobs' own keys instead, all of them in turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.errors import StoreUnavailable
from penstock.transport import keys
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.named_lease import Lease
from penstock.transport.store.scripting import AsyncScripts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    import redis.asyncio

    from penstock.settings import Settings

_log = logging.getLogger(__name__)

LEASE_S: Final = 10.0
"""How long the process that does this may be silent before another one takes over."""
KEYS_AT_ONCE: Final = 1_000
"""Keys that one call passes over; it blocks Redis for less than a millisecond."""
KEYS_PAUSE_S: Final = 0.02
"""The pause after such a call."""
JOBS_AT_ONCE: Final = 200
"""Jobs that one script looks at, in less than a millisecond."""


class Reconciled(msgspec.Struct, frozen=True):
    """What one look at a queue has put back.

    `waiting` jobs are in line again, and `running` ones have a lease again; `entries` of sets were
    added for jobs that have them no more, or removed for want of a job.
    """

    queue: str
    waiting: int
    running: int
    entries: int


class Reconciler:
    """Owned by one event loop. Of all processes, one does this at a time."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._scripts = AsyncScripts(redis, settings)
        self._patience_s = settings.redis_patience_s
        self._lease = Lease(redis, keys.lease("reconciler"), uuid.uuid4().hex, LEASE_S)
        self._renewed_s = float("-inf")

    async def run(self) -> AsyncGenerator[Reconciled, None]:
        """Look at every job once; yield what was put back. Nothing if another process does it.

        A queue with a key of another type is passed over.

        :raises StoreUnavailable: Redis stayed away.
        """
        cursor = 0
        while await self._is_ours():
            cursor, scanned = await patiently_async(
                lambda at=cursor: self._redis.scan(
                    at, match=keys.JOBS_AND_ARRIVALS, count=KEYS_AT_ONCE
                ),
                self._patience_s,
            )
            for queue, job_ids in _by_queue(scanned).items():
                for start in range(0, max(len(job_ids), 1), JOBS_AT_ONCE):
                    part = job_ids[start : start + JOBS_AT_ONCE]
                    if (put_back := await self._look(queue, part)) is not None:
                        yield put_back
            if not cursor:
                return
            await asyncio.sleep(KEYS_PAUSE_S)

    async def stop(self) -> None:
        """Leave the work to another process."""
        await self._lease.release()

    async def _is_ours(self) -> bool:
        """Return whether this process is the one, for some seconds from now."""
        now_s = time.monotonic()
        if now_s - self._renewed_s < LEASE_S / 4:
            return True
        had_it = self._renewed_s > float("-inf")
        is_ours = (had_it and await self._lease.renew()) or await self._lease.take()
        self._renewed_s = now_s if is_ours else float("-inf")
        return bool(is_ours)

    async def _look(self, queue: str, job_ids: Sequence[str]) -> Reconciled | None:
        try:
            waiting, running, entries, open_jobs = await patiently_async(
                lambda: self._scripts.run("reconcile", queue, JOBS_AT_ONCE, *job_ids),
                self._patience_s,
            )
        except StoreUnavailable as error:
            if not error.is_refused:
                raise
            return None  # in the log already; other queues are not to wait for this one
        if open_jobs:
            lives_ms = dict(zip(open_jobs[::2], open_jobs[1::2], strict=True))
            await patiently_async(lambda: self._locate(queue, lives_ms), self._patience_s)
        if not waiting and not running and not entries:
            return None
        _log.warning(
            "queue %s had lost keys: %d jobs are in line again, %d are leased again, "
            "%d entries were added or removed",
            queue,
            waiting,
            running,
            entries,
        )
        return Reconciled(queue, waiting, running, entries)

    async def _locate(self, queue: str, lives_ms: dict[bytes, int]) -> None:
        """Write where open jobs are found, where that is gone."""
        pipeline = self._redis.pipeline(transaction=False)
        for job_id, life_ms in lives_ms.items():
            key = keys.locate(job_id.decode(errors="replace"))
            pipeline.set(key, queue, nx=True, px=max(life_ms, 1))
        await pipeline.execute()


def _by_queue(scanned: Iterable[bytes]) -> dict[str, list[str]]:
    """Return the ids of jobs by their queues; a queue of which only its line is left has none."""
    by_queue: defaultdict[str, list[str]] = defaultdict(list)
    for key in scanned:
        queue, job_id = keys.job_of(key.decode(errors="replace"))
        if job_id:
            by_queue[queue].append(job_id)
        elif queue:
            by_queue[queue].extend(())
    return by_queue
