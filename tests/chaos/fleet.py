"""The fleet under test: Redis with an append-only file behind a proxy, workers, API processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from tests.chaos.networks import Network
from tests.chaos.proxy import LOOPBACK
from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import Processes, Running, answers, card_of, cards

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.proxy import FaultyProxy
    from tests.fixtures.clocks import WallClock
    from tests.fixtures.redis import RedisServer

START_S = 300.0
"""All processes start at once, each with its imports and its model."""
MODELS = ("tiny-llama", "other-llama")
"""The second one is served only in runs with models on demand."""
SETTLE_S = 30.0
LONGEST_LINE = 120
SUFFIX = "-cpu"
EXCHANGE = {
    "PENSTOCK_KV_STORE_BYTES": str(2**20),  # full within a minute
    "PENSTOCK_KV_EXCHANGE_TOKEN": "a token of an exchange",
}
STARVED = ("MemoryError", "Cannot allocate memory", "failed to map segment")


def queue_of(model: str) -> str:
    """Return the queue of a model."""
    return f"{model}{SUFFIX}"


QUEUE = queue_of(MODELS[0])


@dataclass(frozen=True)
class Door:
    """The way of one process's place to Redis: a port of the proxy, and its network if it has one."""

    port: int
    network: Network | None

    @property
    def url(self) -> str:
        """Redis as the process sees it."""
        host = self.network.store.here if self.network else LOOPBACK
        return f"redis://{host}:{self.port}/0"

    @property
    def prefix(self) -> list[str]:
        return self.network.prefix if self.network else []


@dataclass
class Fleet:
    """Everything that can be hit. `journal_ttl_s` must outlast the time until a job is checked."""

    folder: Path
    models_dir: Path
    store: RedisServer
    proxy: FaultyProxy
    journal_ttl_s: int
    clock: WallClock | None = None
    """The wall clock of all processes; None where it cannot be set here."""
    has_networks: bool = False
    """Whether each process has a network of its own."""
    home: RedisServer | None = None
    """The home Redis, if the one that is hit is a group's."""
    on_demand: bool = False
    """Whether workers have two models, and room for one."""
    has_stores: bool = False
    """Whether workers keep blocks of KV cache in folders, two of them in one, and exchange them."""
    workers: list[Running] = field(default_factory=list)
    apis: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._processes = Processes(self.folder)
        self.worker_doors: list[Door] = []
        self.api_doors: list[Door] = []
        self._networks: list[Network] = []

    @property
    def env(self) -> dict[str, str]:
        return {
            "PENSTOCK_LEASE_MS": "2000",
            "PENSTOCK_HEARTBEAT_S": "0.5",
            "PENSTOCK_JOURNAL_TTL_S": str(self.journal_ttl_s),
            "PENSTOCK_DRAIN_S": "1",
            "PENSTOCK_MAX_ATTEMPTS": "50",  # chaos kills more workers than a poisonous job would
            "PENSTOCK_SLOTS": "8",
            "PENSTOCK_FILES_DIR": str(self.folder / "files"),
            "PENSTOCK_KEEPALIVE_S": "2",
            "PENSTOCK_WORKER_GRACE_S": "120",
            "PENSTOCK_DEADLINE_S": "180",  # an answer that nobody can make ends before its client
            "PENSTOCK_RESPONSE_TTL_S": str(max(60, self.journal_ttl_s)),
            **({"PENSTOCK_RESIDENT_MODELS": "1"} if self.on_demand else {}),
            **(self.clock.env if self.clock else {}),
        }

    def _addresses(self, door: Door) -> tuple[str, dict[str, str]]:
        """Return the Redis of a process at this door, and its settings."""
        if self.home is None:
            return door.url, self.env
        groups = {"hit": {"queues": [*self.queues], "url": door.url}}
        return self.home.url, {**self.env, "PENSTOCK_REDIS_GROUPS": json.dumps(groups)}

    def new_worker(self, place: int) -> Running:
        """Start a worker, without waiting for it."""
        door = self.worker_doors[place]
        redis_url, env = self._addresses(door)
        if self.has_stores:
            env = {**env, "PENSTOCK_KV_STORE": str(self.store_of(place)), **EXCHANGE}
        return self._processes.start_worker(
            ",".join(self.queues),
            redis_url,
            self.models_of(place),
            env=env,
            wait=False,
            prefix=door.prefix,
        )

    def store_of(self, place: int) -> Path:
        """Return the folder of a worker's blocks."""
        return self.folder / f"kv-{place % 2}"

    @property
    def queues(self) -> tuple[str, ...]:
        """What the workers serve."""
        return tuple(map(queue_of, MODELS if self.on_demand else MODELS[:1]))

    def models_of(self, place: int) -> Path:
        """Return the folder of a worker's models: its own, if a load may be made to fail."""
        if not self.on_demand:
            return self.models_dir
        own = self.folder / f"models-{place}"
        if not own.exists():
            own.mkdir()
            for model in MODELS:
                shutil.copytree(self.models_dir / model, own / model)
        return own

    def new_api(self, place: int) -> Running:
        """Start an API process, on the same port as the one that it replaces."""
        door = self.api_doors[place]
        port = int(self.apis[place].url.rpartition(":")[2]) if place < len(self.apis) else None
        redis_url, env = self._addresses(door)
        return self._processes.start_api(
            redis_url,
            env=env,
            wait=False,
            port=port,
            prefix=door.prefix,
            host=door.network.clients.there if door.network else LOOPBACK,
        )

    async def _open_door(self) -> Door:
        network = None
        if self.has_networks:
            network = Network(len(self._networks))
            self._networks.append(network)
            await asyncio.to_thread(network.create)
        return Door(await self.proxy.new_door(network.store.here if network else LOOPBACK), network)

    async def start(self, workers: int, apis: int) -> None:
        """Start everything and wait until it serves."""
        self.store.start()
        if self.home is not None:
            self.home.start()
        self.worker_doors = [await self._open_door() for _ in range(workers)]
        self.api_doors = [await self._open_door() for _ in range(apis)]
        self.workers = [self.new_worker(place) for place in range(workers)]
        for place in range(apis):
            self.apis.append(self.new_api(place))
        direct = self.store.url
        for worker in self.workers:
            await asyncio.to_thread(
                worker.wait_until, lambda w=worker: card_of(direct, w.pid), START_S
            )
        for api in self.apis:
            await asyncio.to_thread(
                api.wait_until, lambda a=api: answers(f"{a.url}/ready"), START_S
            )

    def leased_by(self, worker: Running) -> list[str]:
        """Return the ids of the jobs that a worker process runs just now."""
        try:
            card = card_of(self.store.url, worker.pid)
            if card is None:
                return []
            with redis.Redis.from_url(self.store.url, protocol=2) as client:
                prefix = f"penstock:{{{QUEUE}}}:"
                leased: Any = client.zrange(f"{prefix}leases", 0, -1)
                ids = [job.decode() for job in leased]
                holders = [client.hget(f"{prefix}job:{job}", "worker") for job in ids]
        except redis.RedisError:
            return []
        return [job for job, who in zip(ids, holders, strict=True) if who == card.id.encode()]

    def ready_beside(self, worker: Running) -> frozenset[str]:
        """Return the ids of the other workers that serve just now."""
        return frozenset(self._ready_ids([one for one in self.workers if one is not worker]) or ())

    def ready(self) -> int | None:
        """Return how many workers serve just now; None if Redis is away."""
        ids = self._ready_ids(self.workers)
        return None if ids is None else len(ids)

    def _ready_ids(self, workers: list[Running]) -> list[str] | None:
        pids = {one.pid for one in workers if one.exit_code() is None}
        try:
            announced = cards(self.store.url)
        except redis.RedisError:
            return None
        return [card.id for card in announced if card.pid in pids and not card.draining]

    def settle(self) -> None:
        """Wait until the bells of dead workers are answered or taken back, as the reaper does."""
        with (
            redis.Redis.from_url(self.store.url, protocol=2) as client,
            contextlib.suppress(AssertionError),  # they are counted among what is left, then
        ):

            def answered() -> bool:
                try:
                    return not any(client.llen(queue) for queue in self.queues)
                except redis.RedisError:  # it was restarted a moment ago
                    return False

            wait_until(answered, SETTLE_S)

    def tracebacks(self) -> dict[str, int]:
        """Count the tracebacks in all logs by their last lines.

        Those of a process that was starved are left out: without memory anything may break.
        """
        counts: Counter[str] = Counter()
        for log in self.folder.glob("*.log"):
            text = log.read_text(errors="replace")
            if any(sign in text for sign in STARVED):
                continue
            within = False
            for line in text.splitlines():
                if line.startswith("Traceback"):
                    within = True
                elif within and not line.startswith(" "):
                    counts[line.strip()[:LONGEST_LINE]] += 1
                    within = False
        return dict(counts)

    def stop(self) -> None:
        """End everything."""
        self._processes.kill_all()
        self.store.kill()
        if self.home is not None:
            self.home.kill()
        for network in self._networks:
            network.remove()

    def print_logs(self) -> None:
        self._processes.print_logs()
