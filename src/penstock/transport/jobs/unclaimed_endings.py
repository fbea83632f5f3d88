"""Jobs that ended while no API process listened: what they used is accounted for by another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.contract.events import Failed, Finished
from penstock.contract.job import Job
from penstock.transport import keys
from penstock.transport.store.connection import patiently_async
from penstock.transport.store.scripting import AsyncScripts

if TYPE_CHECKING:
    import redis.asyncio

    from penstock.settings import Settings

MOST: Final = 100
"""Jobs that one call takes."""


class Unheard(msgspec.Struct, frozen=True):
    """A job that ended at `ended_ms` (Unix time, Redis's clock) and whose API process is dead."""

    job: Job
    end: Finished | Failed
    ended_ms: int


_job_decoder = msgspec.json.Decoder(Job)
_end_decoder: msgspec.json.Decoder[Finished | Failed] = msgspec.json.Decoder(Finished | Failed)


class UnheardJobs:
    """Of one event loop. Every method may raise `StoreUnavailable`."""

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = cast("Any", redis)
        self._scripts = AsyncScripts(redis, settings)
        self._patience_s = settings.redis_patience_s

    async def take(self, queue: str, least_age_s: float) -> list[Unheard]:
        """Return jobs that ended so long ago, and for which no client has come back since.

        They are the caller's to account for. Another gets them after as long again, unless `forget`
        is called before.
        """
        least_ms = int(least_age_s * 1000)
        found = await patiently_async(
            lambda: self._scripts.run("unheard", queue, least_ms, MOST), self._patience_s
        )
        return [
            Unheard(_job_decoder.decode(job), _end_decoder.decode(event), int(ended_ms))
            for job, event, ended_ms in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]

    async def leave(self, job: Job) -> None:
        """Know that a job's request ends before it, and accounts for what it has had until then."""
        await patiently_async(
            lambda: self._scripts.run("leave", job.queue, job.id, job.reply), self._patience_s
        )

    async def forget(self, queue: str, job_id: str) -> None:
        """Let a job go that has been accounted for."""

        async def let_go() -> None:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.zrem(keys.unheard(queue), job_id)
            pipeline.hdel(keys.job(queue, job_id), "job")
            await pipeline.execute()

        await patiently_async(let_go, self._patience_s)
