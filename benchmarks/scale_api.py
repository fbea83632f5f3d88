"""The fleet grows: what an API process pays to know it and to show it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import httpx

from api.application import create_app
from benchmarks.scale_store import Watch
from benchmarks.sleeping import card_of
from penstock.contract.worker import WorkerCard, WorkerLoad
from penstock.transport.fleet.announcer import Announcer
from penstock.transport.store.connection import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scale_store import Store

ROUNDS = 7


@dataclass(frozen=True)
class Known:
    """One size of the fleet. Milliseconds of an API process's event loop; Redis's µs a refresh."""

    workers: int
    queues: int
    refresh_ms: float
    refresh_redis_us: float
    pick_us: float
    metrics_ms: float
    metrics_redis_us: float
    fleet_page_ms: float
    fleet_page_redis_us: float


def _announce(store: Store, workers: int, queues: int) -> None:
    announcer = Announcer(connect(store.settings), store.settings)
    now_ms = int(time.time() * 1000)
    for number in range(workers):
        queue = f"model{number % queues}-cpu"
        load = {queue: WorkerLoad(running=3, decode_tokens_per_s=50.0)}
        announcer.announce(
            WorkerCard(
                f"host{number}:1:abc", f"host{number}", 1, "0", now_ms, now_ms,
                (card_of(queue, 8),), load,
            )
        )  # fmt: skip


async def sweep(store: Store, sizes: Sequence[tuple[int, int]]) -> list[Known]:
    """Measure fleets of (workers, queues); the store's heartbeat has to be a long one."""
    levels: list[Known] = []
    for workers, queues in sizes:
        store.client.flushall()
        _announce(store, workers, queues)
        app = create_app(store.settings)
        async with app.router.lifespan_context(app):
            levels.append(await _measure(store, app, workers, queues))
        print(levels[-1], flush=True)
    return levels


async def _measure(store: Store, app: object, workers: int, queues: int) -> Known:
    registry = app.state.services.registry  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://scale") as client:

        async def timed(call: object) -> tuple[float, float]:
            watch, took = Watch(store), []
            for _ in range(ROUNDS):
                began_s = time.process_time()
                await call()  # type: ignore[operator]
                took.append((time.process_time() - began_s) * 1e3)
            return median(took), watch.read().cpu_s * 1e6 / ROUNDS

        async def get(path: str) -> None:
            (await client.get(path)).raise_for_status()

        refresh = await timed(registry.refresh)
        metrics = await timed(lambda: get("/metrics"))
        page = await timed(lambda: get("/admin/fleet"))
    began_s = time.perf_counter()
    for _ in range(200):
        registry.pick("model0")
    return Known(
        workers=workers,
        queues=queues,
        refresh_ms=refresh[0],
        refresh_redis_us=refresh[1],
        pick_us=(time.perf_counter() - began_s) * 1e6 / 200,
        metrics_ms=metrics[0],
        metrics_redis_us=metrics[1],
        fleet_page_ms=page[0],
        fleet_page_redis_us=page[1],
    )
