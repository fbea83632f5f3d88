"""The fleet under test: Redis with an append-only file behind a proxy, workers, API processes."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import redis

from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import Processes, Running, answers, card_of, cards

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.proxy import FaultyProxy
    from tests.fixtures.clocks import WallClock
    from tests.fixtures.redis import RedisServer

QUEUE = "tiny-llama-cpu"
SETTLE_S = 30.0


@dataclass
class Fleet:
    """Everything that can be hit. `journal_ttl_s` must outlast the run, for the checks after it."""

    folder: Path
    models_dir: Path
    store: RedisServer
    proxy: FaultyProxy
    journal_ttl_s: int
    clock: WallClock | None = None
    """The wall clock of all processes; None where it cannot be set here."""
    workers: list[Running] = field(default_factory=list)
    apis: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._processes = Processes(self.folder)
        self.doors: list[int] = []
        """The proxy's port of each worker's place."""

    @property
    def url(self) -> str:
        """Redis as the API sees it."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    @property
    def env(self) -> dict[str, str]:
        return {
            "PENSTOCK_LEASE_MS": "2000",
            "PENSTOCK_HEARTBEAT_S": "0.5",
            "PENSTOCK_JOURNAL_TTL_S": str(self.journal_ttl_s),
            "PENSTOCK_DRAIN_S": "1",
            "PENSTOCK_MAX_ATTEMPTS": "50",  # chaos kills more workers than a poisonous job would
            "PENSTOCK_SLOTS": "8",
            "PENSTOCK_KEEPALIVE_S": "2",
            "PENSTOCK_WORKER_GRACE_S": "120",
            **(self.clock.env if self.clock else {}),
        }

    def new_worker(self, place: int) -> Running:
        """Start a worker, without waiting for it."""
        url = f"redis://127.0.0.1:{self.doors[place]}/0"
        return self._processes.start_worker(QUEUE, url, self.models_dir, env=self.env, wait=False)

    def new_api(self, port: int | None = None) -> Running:
        """Start an API process, on the same port as the one that it replaces."""
        return self._processes.start_api(self.url, env=self.env, wait=False, port=port)

    async def start(self, workers: int, apis: int) -> None:
        """Start everything and wait until it serves."""
        self.store.start()
        self.doors = [await self.proxy.new_door() for _ in range(workers)]
        self.workers = [self.new_worker(place) for place in range(workers)]
        self.apis = [self.new_api() for _ in range(apis)]
        direct = self.store.url
        for worker in self.workers:
            await asyncio.to_thread(worker.wait_until, lambda w=worker: card_of(direct, w.pid))
        for api in self.apis:
            await asyncio.to_thread(api.wait_until, lambda a=api: answers(f"{a.url}/ready"))

    def held_by(self, worker: Running) -> list[str]:
        """Return the ids of the jobs that a worker process runs just now."""
        try:
            card = card_of(self.store.url, worker.pid)
            if card is None:
                return []
            with redis.Redis.from_url(self.store.url, protocol=2) as client:
                prefix = f"penstock:{{{QUEUE}}}:"
                ids = [job.decode() for job in client.zrange(f"{prefix}leases", 0, -1)]
                holders = [client.hget(f"{prefix}job:{job}", "worker") for job in ids]
        except redis.RedisError:
            return []
        return [job for job, who in zip(ids, holders, strict=True) if who == card.id.encode()]

    def ready_beside(self, worker: Running) -> frozenset[str]:
        """Return the ids of the other workers that serve just now."""
        pids = {one.pid for one in self.workers if one is not worker and one.exit_code() is None}
        try:
            found = cards(self.store.url)
        except redis.RedisError:
            return frozenset()
        return frozenset(card.id for card in found if card.pid in pids and not card.draining)

    def settle(self) -> None:
        """Wait until the bells of dead workers are answered or taken back, as the reaper does."""
        with (
            redis.Redis.from_url(self.store.url, protocol=2) as client,
            contextlib.suppress(AssertionError),  # they are counted among what is left, then
        ):

            def answered() -> bool:
                try:
                    return not client.llen(QUEUE)
                except redis.RedisError:  # it was restarted a moment ago
                    return False

            wait_until(answered, SETTLE_S)

    def memory_mib(self) -> dict[str, list[float]]:
        """Return the resident sizes of processes that are a minute old or older."""
        sizes: dict[str, list[float]] = {"worker": [], "api": []}
        for kind, running in (("worker", self.workers), ("api", self.apis)):
            for process in running:
                try:
                    seen = psutil.Process(process.pid)
                    age_s = psutil.time.time() - seen.create_time()
                    size_mib = seen.memory_info().rss / 2**20
                    if age_s >= 60 and size_mib:  # a zombie has no size
                        sizes[kind].append(size_mib)
                except psutil.Error:
                    continue
        return sizes

    def stop(self) -> None:
        """End everything."""
        self._processes.kill_all()
        self.store.kill()

    def print_logs(self) -> None:
        self._processes.print_logs()
