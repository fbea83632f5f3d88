"""Jobs that ended after their API process died; another one accounts for their usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.events import Failed, Finished
from penstock.contract.job import Job
from penstock.transport import keys
from penstock.transport.store import contents
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.grouped import Stores, stores_of
from penstock.transport.store.scripting import AsyncScripts

if TYPE_CHECKING:
    import redis.asyncio

    from penstock.settings import Settings

MOST: Final = 100
"""Most jobs that one call takes."""


class UnclaimedEnding(msgspec.Struct, frozen=True):
    """A job that ended at `ended_ms` (Unix time, Redis's clock) and whose API process is dead."""

    job: Job
    end: Finished | Failed
    ended_ms: int


_job_decoder = msgspec.json.Decoder(Job)
_end_decoder: msgspec.json.Decoder[Finished | Failed] = msgspec.json.Decoder(Finished | Failed)


class UnclaimedEndings:
    """Owned by one event loop. Every method may raise `StoreUnavailable`."""

    def __init__(self, redis: redis.asyncio.Redis | Stores, settings: Settings) -> None:
        stores = stores_of(redis)
        self._redis = stores.map(lambda client: cast("Any", client))
        self._scripts = stores.map(lambda client: AsyncScripts(client, settings))
        self._patience_s = settings.redis_patience_s

    async def take(self, queue: str, least_age_s: float) -> list[UnclaimedEnding]:
        """Return jobs that ended at least `least_age_s` ago and that no client has resumed.

        The caller accounts for them and then calls `forget`; otherwise another process gets them
        after the same time again.
        """
        least_ms, scripts = int(least_age_s * 1000), self._scripts.of(queue)
        answer = await patiently_async(
            lambda: scripts.run("unheard", queue, least_ms, MOST), self._patience_s
        )
        key = keys.unheard(queue)
        jobs = contents.readable(_job_decoder, ((key, encoded) for encoded in answer[::3]))
        ends = contents.readable(_end_decoder, ((key, encoded) for encoded in answer[1::3]))
        return [
            UnclaimedEnding(job, end, int(float(ended_ms)))
            for job, end, ended_ms in zip(jobs, ends, answer[2::3], strict=True)
            if job is not None and end is not None
        ]

    async def leave(self, job: Job) -> None:
        """Record that the request has ended before its job; its tokens so far are accounted for."""
        scripts = self._scripts.of(job.queue)
        await patiently_async(
            lambda: scripts.run("leave", job.queue, job.id, job.reply), self._patience_s
        )

    async def forget(self, queue: str, job_id: str) -> None:
        """Delete a job that has been accounted for."""

        async def let_go() -> None:
            pipeline = self._redis.of(queue).pipeline(transaction=True)
            pipeline.zrem(keys.unheard(queue), job_id)
            pipeline.hdel(keys.job(queue, job_id), "job")
            await pipeline.execute()

        await patiently_async(let_go, self._patience_s)
