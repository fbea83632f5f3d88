"""A Redis to measure, the jobs to load it with, and what it spends on them, for `benchmarks.scale`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.processes import free_port
from penstock.cli.fleet import redis_server
from penstock.cli.fleet.supervisor import Supervisor
from penstock.contract.job import Generate, Job, Sampling, TokenPrompt
from penstock.settings import Settings
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.store.connection import connect_async

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

CHANNEL = "penstock:reply:scale"
DEADLINE_MS = 3_600_000
_AT_ONCE = 32
_START_S = 20.0


@dataclass(frozen=True)
class Store:
    """A running Redis, and the settings that name it."""

    url: str
    settings: Settings
    client: redis.Redis

    def info(self) -> dict[str, Any]:
        """Return Redis's `INFO`."""
        return dict(self.client.info("all"))  # type: ignore[arg-type]


@contextmanager
def running(**changes: Any) -> Generator[Store]:
    """Start an append-only Redis in a folder of its own; end it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-scale-"))
    port = free_port()
    supervisor = Supervisor(print)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    try:
        supervisor.start_tier(redis_server.make_child(port, folder, folder))
        end = time.monotonic() + _START_S
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        bounds = {"max_waiting_jobs": 10**7, "max_waiting_tokens": 10**12}
        yield Store(url, Settings.model_validate({"redis_url": url, **bounds, **changes}), client)
    finally:
        client.close()
        supervisor.stop_all(hurry=lambda: False)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Spent:
    """What Redis did in a while: seconds, CPU seconds, commands that came from outside."""

    seconds: float
    cpu_s: float
    commands: int


class Watch:
    """Measures Redis from its making to each `read`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before = self._now()

    def _now(self) -> tuple[float, float, int]:
        info = self._store.client.info("all")
        cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]  # type: ignore[index]
        return time.monotonic(), cpu_s, info["total_commands_processed"]  # type: ignore[index]

    def read(self) -> Spent:
        """Return what was spent since then."""
        (at, cpu, commands), (at_first, cpu_first, first) = self._now(), self._before
        return Spent(at - at_first, cpu - cpu_first, commands - first)


class Clerk:
    """Submits jobs as an API process does."""

    def __init__(self, store: Store) -> None:
        self.redis = connect_async(store.settings)
        self.queue = JobQueue(self.redis, store.settings)

    async def job(self, queue: str, tenant: int, tokens: int) -> Job:
        """Make a job whose prompt says for whom it is and when it was made."""
        micros = int(time.monotonic() * 1e6)
        now_ms = await self.queue.now_ms(queue)
        return Job(
            id=uuid.uuid4().hex,
            queue=queue,
            model=queue.removesuffix("-cpu"),
            work=Generate(
                TokenPrompt((tenant, micros >> 30, micros & (1 << 30) - 1)),
                Sampling(seed=0, max_tokens=tokens),
            ),
            reply=CHANNEL,
            deadline_ms=now_ms + DEADLINE_MS,
            created_ms=now_ms,
            tenant=f"tenant-{tenant}",
            cost_tokens=100,
        )

    async def submit(self, queue: str, tenants: Sequence[int], tokens: int) -> list[str]:
        """Submit a job for each tenant named, some at once; return their ids."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(tenant: int) -> str:
            async with gate:
                job = await self.job(queue, tenant, tokens)
                await self.queue.submit(job)
                return job.id

        ids: list[str] = []
        for start in range(0, len(tenants), 1_000):
            ids += await asyncio.gather(*(one(each) for each in tenants[start : start + 1_000]))
        return ids

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.aclose()


def at(values: Sequence[float], share: float) -> float:
    """Return a percentile; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all got the same, 1/n if one got everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0
