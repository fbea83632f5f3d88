"""Faults of processes: killed, frozen, starved, asked to end, their clocks set."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psutil

from tests.chaos.recovery import Kill, watch
from tests.fixtures.clocks import HOUR_S

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable

    from tests.chaos.fleet import Fleet
    from tests.fixtures.processes import Running

STARVED_S = 5.0
"""A worker that has not died of want by then is killed."""


class ProcessFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random
    kills: list[Kill]
    spare_first: bool

    def tracked(self, fault: Awaitable[None]) -> asyncio.Task[None]:
        """Run something that is waited for at the end."""
        raise NotImplementedError

    def _place(self, processes: list[Running]) -> int:
        """Draw a process that may be ended; the first is spared if there is another."""
        return self.rng.randrange(int(self.spare_first and len(processes) > 1), len(processes))

    async def kill_worker(self) -> None:
        """Take a worker away as the kernel does, and start another one a moment later."""
        place = self._place(self.fleet.workers)
        worker = self.fleet.workers[place]
        leased = await asyncio.to_thread(self.fleet.leased_by, worker)
        ready = await asyncio.to_thread(self.fleet.ready_beside, worker)
        kill = Kill(time.monotonic(), ready)
        self.kills.append(kill)
        worker.kill()
        self.tracked(watch(self.fleet.store.url, kill, leased))
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        self.fleet.workers[place] = self.fleet.new_worker(place)

    async def starve_worker(self) -> None:
        """Give a worker no byte more than it has: its next allocation fails."""
        place = self._place(self.fleet.workers)
        worker = self.fleet.workers[place]
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            has = psutil.Process(worker.pid)
            has.rlimit(psutil.RLIMIT_AS, (has.memory_info().vms, psutil.RLIM_INFINITY))
        try:
            await asyncio.to_thread(worker.wait, STARVED_S)
        except subprocess.TimeoutExpired:  # it lives on what it has
            worker.kill()
        self.fleet.workers[place] = self.fleet.new_worker(place)

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
        place = self._place(self.fleet.workers)
        await self._drain(self.fleet.workers[place])
        self.fleet.workers[place] = self.fleet.new_worker(place)

    async def kill_api(self) -> None:
        """Kill an API process; its clients come back on the same port or on another process."""
        place = self._place(self.fleet.apis)
        self.fleet.apis[place].kill()
        self.fleet.apis[place] = self.fleet.new_api(place)

    async def drain_api(self) -> None:
        """Ask an API process to end."""
        place = self._place(self.fleet.apis)
        await self._drain(self.fleet.apis[place])
        self.fleet.apis[place] = self.fleet.new_api(place)

    async def _drain(self, process: Running) -> None:
        if process.exit_code() is None:
            process.send(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 20.0)
            except subprocess.TimeoutExpired:
                process.kill()
