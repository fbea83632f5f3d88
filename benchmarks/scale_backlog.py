"""The backlog grows: what each call of the queue costs Redis, and who is served."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.scale_growth import QUEUE, fleet
from benchmarks.scale_store import Clerk, Watch, at, jain
from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.transport import keys
from penstock.transport.fleet.overview import Overview
from penstock.transport.jobs.queue import Row, WorkerQueue
from penstock.transport.store.connection import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.scale_store import Store
    from penstock.transport.jobs.queue import Claim

TENANTS = 100
"""The first of them has nine tenths of the backlog."""
CALLS = 400
WORKERS = 20
STEP_MS = 250
SLOTS = 8
_SEEN_JOBS = 50


@dataclass(frozen=True)
class Backlog:
    """One length of the queue. `us` is Redis's CPU a call in µs, `p99_ms` the caller's wait.

    The claims' fairness is Jain's index over the tenants that had jobs all the while; `busiest` is
    the share that the tenant with nine tenths of the backlog got. `drain_*` is with real workers.
    """

    waiting: int
    us: dict[str, float]
    p99_ms: dict[str, float]
    memory_mib: float
    claim_jain: float
    busiest: float
    drain_jobs_per_s: float
    drain_us_per_job: float
    drain_jain: float


def tenants_of(count: int) -> list[int]:
    """Deal jobs out: of ten, nine are the first tenant's, one is the next other's."""
    return [0 if index % 10 else 1 + index // 10 % (TENANTS - 1) for index in range(count)]


class Probe:
    """Times each call of a queue, in turn, at the backlog as it is."""

    def __init__(self, store: Store, clerk: Clerk) -> None:
        self._store = store
        self._clerk = clerk
        self._worker = WorkerQueue(connect(store.settings), store.settings, "probe")
        self.us: dict[str, float] = {}
        self.p99_ms: dict[str, float] = {}

    async def times(
        self, name: str, call: Callable[[int], Awaitable[object] | object], calls: int = CALLS
    ) -> None:
        """Call so often, and note what it cost."""
        took_ms: list[float] = []
        watch = Watch(self._store)
        for number in range(calls):
            began_s = time.perf_counter()
            result = call(number)
            if asyncio.iscoroutine(result):
                await result
            took_ms.append((time.perf_counter() - began_s) * 1e3)
        self.us[name] = watch.read().cpu_s * 1e6 / calls
        self.p99_ms[name] = at(took_ms, 0.99)

    async def all(self) -> list[Claim]:
        """Measure every call; return what was claimed meanwhile. The backlog ends as it began."""
        jobs = [await self._clerk.job(QUEUE, 1 + n % (TENANTS - 1), 1) for n in range(2 * CALLS)]
        await self.times("submit", lambda n: self._clerk.queue.submit(jobs[n]))
        await self._clerk.submit(QUEUE, [0] * CALLS, 1)  # to be claimed at a backlog of 0 as well
        claims: list[Claim] = []

        def claim(_: int) -> None:
            claimed = self._worker.claim(QUEUE)
            assert claimed is not None
            claims.append(claimed)

        await self.times("claim", claim)
        await self.times("append 1 token", lambda n: self._append([claims[n]], 0))
        rounds = CALLS // 4
        await self.times(
            "append 32 tokens", lambda n: self._append(claims[:32], n + 1), calls=rounds
        )
        held = {one.job.id: one.epoch for one in claims[:32]}
        await self.times("renew 32 leases", lambda _: self._worker.renew(QUEUE, held), rounds)
        await self.times("finish", lambda n: self._finish(claims[n], n, rounds))
        await self._clerk.queue.submit(jobs[CALLS])
        for each in jobs[CALLS + 1 :]:
            await self._clerk.queue.submit(each)
        await self.times(
            "cancel a waiting job", lambda n: self._clerk.queue.cancel(jobs[CALLS + n].id)
        )
        await self.times("depth", lambda _: self._clerk.queue.depth(QUEUE))
        await self.times("reap", lambda _: self._worker.reap(QUEUE), calls=rounds)
        overview = Overview(self._clerk.redis)
        await self.times(
            "fleet page's jobs", lambda _: overview.open_jobs([QUEUE], _SEEN_JOBS), calls=rounds
        )
        return claims

    def _append(self, claims: Sequence[Claim], index: int) -> None:
        rows = [
            Row(one.job.id, one.epoch, Tokens(one.job.id, index, (7,), " word", prompt_tokens=None))
            for one in claims
        ]
        assert not self._worker.append(QUEUE, rows)

    def _finish(self, claim: Claim, number: int, rounds: int) -> None:
        index = 1 + rounds if number < 32 else 1
        ended = Finished(claim.job.id, index, FinishReason.LENGTH, Usage(3, index))
        assert not self._worker.append(QUEUE, [Row(claim.job.id, claim.epoch, ended)])


async def _drain(store: Store, seconds: float) -> tuple[float, float, float]:
    """Let real workers at it; return jobs/s, Redis's µs a job and Jain's index of the tenants."""
    with fleet(store, STEP_MS, SLOTS) as workers:
        workers.grow(WORKERS)
        await asyncio.sleep(3.0)
        workers.take()
        watch = Watch(store)
        await asyncio.sleep(seconds)
        spent, done = watch.read(), workers.take()
    # Those that had jobs all the while.
    lines = [f"{keys.queue_prefix(QUEUE)}waiting:5:tenant-{tenant}" for tenant in range(TENANTS)]
    counts = [
        done["by_tenant"].get(tenant, 0)
        for tenant, line in enumerate(lines)
        if store.client.zcard(line)
    ]
    return done["jobs"] / spent.seconds, spent.cpu_s * 1e6 / max(done["jobs"], 1), jain(counts)


async def _measure(store: Store, clerk: Clerk, waiting: int, seconds: float) -> Backlog:
    store.client.flushall()
    await clerk.submit(QUEUE, tenants_of(waiting), 1)
    probe = Probe(store, clerk)
    claims = await probe.all()
    counts = Counter(claim.job.tenant for claim in claims)
    memory = store.client.info("memory")["used_memory"] / 2**20  # type: ignore[index]
    drained = await _drain(store, seconds) if waiting >= TENANTS * 100 else (0.0, 0.0, 0.0)
    return Backlog(
        waiting=waiting,
        us=probe.us,
        p99_ms=probe.p99_ms,
        memory_mib=memory,
        claim_jain=jain(list(counts.values())) if waiting else 1.0,
        busiest=counts["tenant-0"] / len(claims),
        drain_jobs_per_s=drained[0],
        drain_us_per_job=drained[1],
        drain_jain=drained[2],
    )


async def sweep(store: Store, lengths: Sequence[int], seconds: float) -> list[Backlog]:
    """Measure every length."""
    clerk = Clerk(store)
    try:
        levels: list[Backlog] = []
        for length in lengths:
            levels.append(await _measure(store, clerk, length, seconds))
            print(levels[-1], flush=True)
        return levels
    finally:
        await clerk.close()
