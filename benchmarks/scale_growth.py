"""The fleet grows: what its workers, their tokens and their jobs cost one Redis."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import scale_fleet
from benchmarks.scale_store import CHANNEL, Clerk, Watch, at
from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from benchmarks.scale_store import Spent, Store

QUEUE = "sleeper-cpu"
PROCESSES = 4
STEP_MS = 2_000
SLOTS = 8
LONG_TOKENS = 1_000_000
JOBS_PER_S = 100
"""Jobs of one token that the whole fleet gets in the third part; a small one gets fewer."""
JOBS_PER_WORKER_S = 2
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Growth:
    """One size of the fleet. CPU is Redis's, in shares of a core or µs; latencies in ms.

    `us_per_token` and `us_per_job` are what came on top of the idle fleet. A job's latency is from
    before its submission to where its engine has it.
    """

    workers: int
    connections: int
    idle_cpu: float
    idle_us_per_worker_s: float
    idle_commands_per_worker_s: float
    tokens_per_s: float
    tokens_per_append: float
    busy_cpu: float
    us_per_token: float
    jobs_per_s: float
    us_per_job: float
    latency_p50_ms: float
    latency_p99_ms: float
    step_late_p99_ms: float


class Fleet:
    """Processes full of simulated workers."""

    def __init__(self, store: Store, step_ms: int, slots: int) -> None:
        context = multiprocessing.get_context("spawn")
        os.environ["PENSTOCK_REDIS_URL"] = store.url  # read where the new process imports us
        self.slots = slots
        self.size = 0
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for _ in range(PROCESSES):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=scale_fleet.serve, args=(theirs, step_ms, slots), daemon=True
            )
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)

    def grow(self, size: int, queue: str = QUEUE) -> None:
        """Start workers until there are so many, dealt out to the processes."""
        for number, pipe in enumerate(self._pipes):
            new = [queue for index in range(self.size, size) if index % PROCESSES == number]
            pipe.send(("grow", new))
        for pipe in self._pipes:
            pipe.recv()
        self.size = size

    def take(self) -> dict[str, Any]:
        """Return what all have done since the last time."""
        for pipe in self._pipes:
            pipe.send(("take",))
        found = [pipe.recv() for pipe in self._pipes]
        tenants: dict[int, int] = {}
        for one in found:
            for tenant, count in one["by_tenant"].items():
                tenants[tenant] = tenants.get(tenant, 0) + count
        return {
            "tokens": sum(one["tokens"] for one in found),
            "jobs": sum(one["jobs"] for one in found),
            "steps": sum(one["steps"] for one in found),
            "latencies_ms": [each for one in found for each in one["latencies_ms"]],
            "late_ms": [each for one in found for each in one["late_ms"]],
            "by_tenant": tenants,
        }

    def end(self) -> None:
        """Kill all of it."""
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def fleet(store: Store, step_ms: int, slots: int) -> Generator[Fleet]:
    """Run processes for workers."""
    made = Fleet(store, step_ms, slots)
    try:
        yield made
    finally:
        made.end()


async def listen(clerk: Clerk) -> None:
    """Be the API process that gets every live event; it reads them and looks no further."""
    async with clerk.redis.pubsub() as channel:
        await channel.subscribe(CHANNEL)
        while True:
            await channel.get_message(timeout=1.0)


async def until(ready: Any, what: str) -> None:
    """Poll."""
    end = time.monotonic() + _PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"not within {_PATIENCE_S:.0f} s: {what}")
        await asyncio.sleep(0.1)


async def measured(store: Store, workers: Fleet, seconds: float) -> tuple[Spent, dict[str, Any]]:
    """Return what Redis spent and what the workers did in a window."""
    workers.take()
    watch = Watch(store)
    await asyncio.sleep(seconds)
    return watch.read(), workers.take()


async def measure(store: Store, clerk: Clerk, workers: Fleet, size: int, seconds: float) -> Growth:
    """Grow the fleet, then watch it idle, saying tokens, and at short jobs."""
    workers.grow(size)
    await until(lambda: store.client.zcard(keys.WORKERS) == size, f"{size} workers announced")
    await asyncio.sleep(2.0)
    idle, _ = await measured(store, workers, seconds)
    connections = int(store.info()["connected_clients"])
    idle_share = idle.cpu_s / idle.seconds

    slots = size * workers.slots
    ids = await clerk.submit(QUEUE, [index % 10 for index in range(slots)], LONG_TOKENS)
    await until(lambda: store.client.zcard(keys.leases(QUEUE)) >= 0.95 * slots, "all slots taken")
    await asyncio.sleep(1.0)
    busy, said = await measured(store, workers, seconds)
    for start in range(0, len(ids), 200):
        await asyncio.gather(*(clerk.queue.cancel(each) for each in ids[start : start + 200]))
    await until(lambda: store.client.zcard(keys.leases(QUEUE)) == 0, "all slots free")
    await asyncio.sleep(1.0)

    feeding = asyncio.create_task(_feed(clerk, min(JOBS_PER_S, JOBS_PER_WORKER_S * size)))
    await asyncio.sleep(1.0)
    short, done = await measured(store, workers, seconds)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    await until(lambda: store.client.zcard(keys.leases(QUEUE)) == 0, "all jobs done")
    return Growth(
        workers=size,
        connections=connections,
        idle_cpu=idle_share,
        idle_us_per_worker_s=idle_share * 1e6 / size,
        idle_commands_per_worker_s=idle.commands / idle.seconds / size,
        tokens_per_s=said["tokens"] / busy.seconds,
        tokens_per_append=said["tokens"] / max(said["steps"], 1),
        busy_cpu=busy.cpu_s / busy.seconds,
        us_per_token=(busy.cpu_s - idle_share * busy.seconds) * 1e6 / max(said["tokens"], 1),
        jobs_per_s=done["jobs"] / short.seconds,
        us_per_job=(short.cpu_s - idle_share * short.seconds) * 1e6 / max(done["jobs"], 1),
        latency_p50_ms=at(done["latencies_ms"], 0.5),
        latency_p99_ms=at(done["latencies_ms"], 0.99),
        step_late_p99_ms=at(said["late_ms"], 0.99),
    )


async def _feed(clerk: Clerk, jobs_per_s: float) -> None:
    """Submit one-token jobs at an even rate."""
    due_s = time.monotonic()
    number = 0
    while True:
        due_s += 1 / jobs_per_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        number += 1
        await clerk.submit(QUEUE, [number % 10], 1)


async def sweep(store: Store, sizes: Sequence[int], seconds: float) -> list[Growth]:
    """Measure every size, the smallest first."""
    clerk = Clerk(store)
    listening = asyncio.create_task(listen(clerk))
    levels: list[Growth] = []
    try:
        with fleet(store, step_ms=STEP_MS, slots=SLOTS) as workers:
            for size in sorted(sizes):
                levels.append(await measure(store, clerk, workers, size, seconds))
                print(levels[-1], flush=True)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await clerk.close()
    return levels
