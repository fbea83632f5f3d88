"""What happens to the fleet, drawn from a seed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from tests.chaos.recovery import Kill, watch
from tests.fixtures.clocks import HOUR_S

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.chaos.fleet import Fleet
    from tests.fixtures.processes import Running


UNDISTURBED_S = 8.0
"""How long every other killed worker's jobs are left alone, to see how long they take to go on.

Well above what is aimed at: a fault before a job has gone on takes it out of that account."""
LOADED_S = 120.0
STARVED_S = 5.0
"""A worker that has not died of want by then is killed."""


@dataclass
class Faults:
    """Injects faults until cancelled; one at a time, a pause between, everything mended after."""

    fleet: Fleet
    rng: random.Random
    only: tuple[str, ...] = ()
    pause_s: tuple[float, float] = (0.3, 2.0)
    longest_absence_s: float = 12.0
    counts: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    broken: Exception | None = None
    """What ended the faults before their time: a run without them shows nothing."""

    def __post_init__(self) -> None:
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.kill_worker, 5),
            (self.stop_worker, 3),
            (self.starve_worker, 3),
            (self.lose_network, 3),
            (self.drain_worker, 3),
            (self.kill_api, 3),
            (self.drain_api, 2),
            (self.cut_redis, 5),
            (self.stall_redis, 3),
            (self.slow_redis, 2),
            (self.lose_redis, 2),
            (self.outlast_patience, 1),
            (self.restart_redis, 3),
        ]
        if self.fleet.clock:
            kinds.append((self.step_clocks, 3))
        names = {kind.__name__ for kind, _ in kinds}
        if unknown := set(self.only) - names:
            raise ValueError(f"no such faults: {sorted(unknown)}; there are {sorted(names)}")
        if self.only:
            kinds = [(kind, weight) for kind, weight in kinds if kind.__name__ in self.only]
        self._kinds = [kind for kind, _ in kinds]
        self._weights = [weight for _, weight in kinds]
        self._mending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Go on until cancelled; what is broken then is mended first."""
        try:
            while True:
                await asyncio.sleep(self.rng.uniform(*self.pause_s))
                (kind,) = self.rng.choices(self._kinds, self._weights)
                self.counts[kind.__name__] += 1
                self.begun_s.append(time.monotonic())
                # A fault that has begun is ended too: half a fault would hide what it breaks.
                await asyncio.shield(self._tracked(kind()))
                if kind == self.kill_worker and self.counts["kill_worker"] % 2:
                    await asyncio.sleep(UNDISTURBED_S)
        except Exception as error:
            self.broken = error
            raise
        finally:
            await asyncio.gather(*self._mending)

    def _tracked(self, fault: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(fault)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)
        return task

    # -- processes

    async def kill_worker(self) -> None:
        """Take a worker away as the kernel does, and start another one a moment later."""
        place = self.rng.randrange(len(self.fleet.workers))
        worker = self.fleet.workers[place]
        held = await asyncio.to_thread(self.fleet.held_by, worker)
        ready = await asyncio.to_thread(self.fleet.ready_beside, worker)
        kill = Kill(time.monotonic(), ready)
        self.kills.append(kill)
        worker.kill()
        self._tracked(watch(self.fleet.store.url, kill, held))
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        self.fleet.workers[place] = self.fleet.new_worker(place)

    async def starve_worker(self) -> None:
        """Give a worker no byte more than it has: its next allocation fails."""
        place = self.rng.randrange(len(self.fleet.workers))
        worker = self.fleet.workers[place]
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            has = psutil.Process(worker.pid)
            has.rlimit(psutil.RLIMIT_AS, (has.memory_info().vms, psutil.RLIM_INFINITY))
        try:
            await asyncio.to_thread(worker.wait, STARVED_S)
        except subprocess.TimeoutExpired:  # it lives on what it has
            worker.kill()
        self.fleet.workers[place] = self.fleet.new_worker(place)

    async def lose_network(self) -> None:
        """Swallow everything between one worker and Redis, for longer than its leases live."""
        place = self.rng.randrange(len(self.fleet.workers))
        async with self.fleet.proxy.lost(self.fleet.doors[place]):
            await asyncio.sleep(self.rng.uniform(2.5, 9.0))

    async def step_clocks(self) -> None:
        """Set the wall clock of every process by up to an hour, either way."""
        assert self.fleet.clock
        self.fleet.clock.step(self.rng.choice((-HOUR_S, -60.0, 0.0, 60.0, HOUR_S)))

    async def stop_worker(self) -> None:
        """Freeze a worker for longer than its leases live, then let it go on and be refused."""
        worker = self.rng.choice(self.fleet.workers)
        if worker.exit_code() is None:
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(self.rng.uniform(0.5, 6.0))
            worker.send(signal.SIGCONT)

    async def drain_worker(self) -> None:
        """Ask a worker to end, and start another one beside it."""
        place = self.rng.randrange(len(self.fleet.workers))
        await self._drain(self.fleet.workers[place])
        self.fleet.workers[place] = self.fleet.new_worker(place)

    async def kill_api(self) -> None:
        """Kill an API process; its clients come back on the same port or on another process."""
        place = self.rng.randrange(len(self.fleet.apis))
        self.fleet.apis[place].kill()
        self._replace_api(place)

    async def drain_api(self) -> None:
        """Ask an API process to end."""
        place = self.rng.randrange(len(self.fleet.apis))
        await self._drain(self.fleet.apis[place])
        self._replace_api(place)

    def _replace_api(self, place: int) -> None:
        port = int(self.fleet.apis[place].url.rpartition(":")[2])
        self.fleet.apis[place] = self.fleet.new_api(port)

    async def _drain(self, process: Running) -> None:
        if process.exit_code() is None:
            process.send(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 20.0)
            except subprocess.TimeoutExpired:
                process.kill()

    # -- Redis

    async def cut_redis(self) -> None:
        """Reset all connections."""
        self.fleet.proxy.cut()

    async def stall_redis(self) -> None:
        """Let nothing through for a while, then everything."""
        async with self.fleet.proxy.stalled():
            await asyncio.sleep(self.rng.uniform(0.3, 4.0))

    async def slow_redis(self) -> None:
        """Delay every message."""
        async with self.fleet.proxy.slow(self.rng.uniform(0.02, 0.1)):
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))

    async def lose_redis(self) -> None:
        """Refuse connections for a while."""
        async with self.fleet.proxy.away():
            await asyncio.sleep(self.rng.uniform(1.0, self.longest_absence_s))

    async def outlast_patience(self) -> None:
        """Stay away for longer than the fleet waits: streams end, and their clients come again."""
        async with self.fleet.proxy.away():
            await asyncio.sleep(self.rng.uniform(21.0, 26.0))

    async def restart_redis(self) -> None:
        """Kill the server, and start it again from its append-only file."""
        self.fleet.store.kill()
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        # A file of many minutes takes long to load from a busy disk.
        await asyncio.to_thread(self.fleet.store.start, LOADED_S)
