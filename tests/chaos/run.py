"""One chaos run: references first, then load and faults together, then the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet
from tests.chaos.load import Ask, Outcome, ResumingClient, draw_asks
from tests.chaos.proxy import FaultyProxy
from tests.chaos.verdict import Verdict, judge
from tests.fixtures.clocks import WallClock, find_library
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MEMORY_EVERY_S = 5.0


@dataclass(frozen=True)
class Plan:
    """The size of a run. It ends when the time is over, and the jobs and the faults are done."""

    seed: int
    seconds: float
    jobs: int
    clients: int = 16
    workers: int = 3
    apis: int = 2
    asks: int = 48
    tokens: tuple[int, int] = (20, 250)
    faults: int = 0
    pause_s: tuple[float, float] = (0.0, 0.0)
    """How long a client rests between two jobs."""
    only: tuple[str, ...] = ()
    """Kinds of faults; all where it is empty."""


async def run(
    plan: Plan, folder: Path, models_dir: Path, tell: Callable[[str], None] = print
) -> Verdict:
    """Return the verdict of a run; `folder` keeps Redis's file and the logs."""
    # As compose.yaml and the manifests have it.
    store = RedisServer(folder, append_only=True, options=("--appendfsync", "everysec"))
    proxy = FaultyProxy(store.port)
    async with proxy.running():
        clock = WallClock(folder / "wall-clock") if find_library() else None
        fleet = Fleet(folder, models_dir, store, proxy, int(plan.seconds) + 1800, clock)
        if clock is None:
            tell("no libfaketime: clocks are left alone")
        try:
            await fleet.start(plan.workers, plan.apis)
            tell(f"fleet of {plan.workers} workers and {plan.apis} API processes is up")
            verdict = await _run(plan, fleet, tell)
        except BaseException:
            fleet.print_logs()
            raise
        finally:
            fleet.stop()
    return verdict


async def _run(plan: Plan, fleet: Fleet, tell: Callable[[str], None]) -> Verdict:
    rng = random.Random(plan.seed)
    limits = httpx.Limits(max_connections=plan.clients * 2)
    timeout = httpx.Timeout(10.0, read=8.0)  # keep-alives come every 2 s
    async with httpx.AsyncClient(limits=limits, timeout=timeout) as http:
        urls = [api.url for api in fleet.apis]
        client = ResumingClient(http, urls, rng)
        asks = await _references(client, draw_asks(plan.asks, plan.seed, plan.tokens))
        tell(f"{len(asks)} undisturbed texts")
        faults = Faults(fleet, random.Random(plan.seed + 1), only=plan.only)
        injecting = asyncio.create_task(faults.run())
        memory = asyncio.create_task(_watch_memory(fleet))
        outcomes = await _load(plan, client, asks, faults, tell)
        memory.cancel()
        injecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await injecting
    await asyncio.to_thread(fleet.settle)
    verdict = judge(outcomes, faults, fleet.store.url)
    verdict.memory_mib = await _memory_of(memory)
    return verdict


async def _references(client: ResumingClient, asks: list[Ask]) -> list[Ask]:
    """Return the asks with the text of each alone, without faults."""
    known: list[Ask] = []
    for ask in asks:
        outcome = await client.ask(ask)
        assert not outcome.error, outcome.error
        known.append(dataclasses.replace(ask, text=outcome.text))
    return known


async def _load(
    plan: Plan,
    client: ResumingClient,
    asks: list[Ask],
    faults: Faults,
    tell: Callable[[str], None],
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    rng = random.Random(plan.seed)
    begun = 0
    start_s = time.monotonic()

    def is_over() -> bool:
        if faults.broken is not None:
            raise faults.broken
        enough = begun >= plan.jobs and faults.counts.total() >= plan.faults
        return enough and time.monotonic() - start_s >= plan.seconds

    async def one_client() -> None:
        nonlocal begun
        while not is_over():
            begun += 1
            outcomes.append(await client.ask(rng.choice(asks)))
            await asyncio.sleep(rng.uniform(*plan.pause_s))
            if len(outcomes) % 100 == 0:
                wrong = sum(not outcome.right for outcome in outcomes)
                tell(f"{time.monotonic() - start_s:.0f} s: {len(outcomes)} jobs, {wrong} not right")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(plan.clients):
            tasks.create_task(one_client())
    return outcomes


_SAMPLES: list[dict[str, list[float]]] = []


async def _watch_memory(fleet: Fleet) -> None:
    _SAMPLES.clear()
    while True:
        await asyncio.sleep(MEMORY_EVERY_S)
        _SAMPLES.append(await asyncio.to_thread(fleet.memory_mib))


async def _memory_of(watching: asyncio.Task[None]) -> dict[str, list[float]]:
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    third = max(1, len(_SAMPLES) // 3)
    means: dict[str, list[float]] = {}
    for kind in ("worker", "api"):
        parts = [
            [size for sample in part for size in sample.get(kind, [])]
            for part in (_SAMPLES[:third], _SAMPLES[-third:])
        ]
        if all(parts):
            means[kind] = [round(sum(sizes) / len(sizes), 1) for sizes in parts]
    return means
