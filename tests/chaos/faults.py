"""What happens to the fleet, drawn from a seed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.load_faults import LoadFaults
from tests.chaos.loss_faults import LossFaults
from tests.chaos.network_faults import NetworkFaults
from tests.chaos.process_faults import ProcessFaults
from tests.chaos.store_faults import StoreFaults

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Mapping

    from tests.chaos.fleet import Fleet
    from tests.chaos.loss_faults import Loss
    from tests.chaos.recovery import Kill

UNDISTURBED_S = 8.0
"""How long every other killed worker's jobs are left alone, to see how long they take to go on.

Well above what is aimed at: a fault before a job has gone on takes it out of that account."""

PROCESSES: Mapping[str, int] = {
    "kill_worker": 5,
    "stop_worker": 3,
    "starve_worker": 3,
    "drain_worker": 3,
    "kill_api": 3,
    "drain_api": 2,
}
REDIS: Mapping[str, int] = {
    "cut_redis": 5,
    "stall_redis": 3,
    "slow_redis": 2,
    "lose_redis": 2,
    "outlast_patience": 1,
    "restart_redis": 3,
    "demote_redis": 2,
    "fill_redis": 2,
    "want_replicas": 1,
    "change_permissions": 2,
    "pause_clients": 2,
    "kill_connections": 3,
    "forget_scripts": 1,
    "foreign_messages": 2,
}
LOSSES: Mapping[str, int] = {
    "flush_redis": 2,
    "flush_again_and_again": 2,
    "lose_file": 2,
    "cut_file": 2,
    "change_types": 2,
    "delete_keys": 3,
}
NETWORK: Mapping[str, int] = {"lose_network": 3, "stall_one_way": 2, "stall_connections": 2}
PARTITIONS: Mapping[str, int] = {
    "partition_worker": 2,
    "partition_api": 2,
    "partition_clients": 2,
    "partition_redis": 2,
}
CLOCKS: Mapping[str, int] = {"step_clocks": 3}


STORES: Mapping[str, int] = {"damage_store": 4, "delete_store": 3, "block_store": 3}
LOADS: Mapping[str, int] = {"kill_loading": 4, "kill_unloading": 4, "fail_loads": 3}


@dataclass
class Faults(ProcessFaults, LossFaults, NetworkFaults, LoadFaults, StoreFaults):
    """Injects faults until cancelled; one at a time, a pause between, everything mended after."""

    fleet: Fleet
    rng: random.Random
    only: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    """The faults, one after the other and no more; drawn without an end if there is none."""
    spare_first: bool = False
    """Whether the first worker and the first API process live through the run."""
    pause_s: tuple[float, float] = (0.3, 2.0)
    counts: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    history: list[tuple[float, float, str]] = field(default_factory=list)
    """When each fault began and ended (monotonic), and its kind."""
    ready: list[tuple[float, int]] = field(default_factory=list)
    """How many workers served, after each fault that has left Redis there."""
    broken: Exception | None = None
    """What ended the faults before their time: a run without them shows nothing."""

    def __post_init__(self) -> None:
        kinds = {
            **PROCESSES,
            **REDIS,
            **LOSSES,
            **NETWORK,
            **(PARTITIONS if self.fleet.has_networks else {}),
            **(CLOCKS if self.fleet.clock else {}),
            **(LOADS if self.fleet.on_demand else {}),
            **(STORES if self.fleet.has_stores else {}),
        }
        if unknown := {*self.only, *self.order} - set(kinds):
            raise ValueError(f"no such faults: {sorted(unknown)}; there are {sorted(kinds)}")
        chosen = self.only or tuple(kinds)
        self._kinds = [name for name in kinds if name in chosen]
        self._weights = [kinds[name] for name in self._kinds]
        self._mending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Go on until cancelled; what is broken then is mended first."""
        try:
            for name in self.order:
                await self._inject(name)
            while not self.order:
                (name,) = self.rng.choices(self._kinds, self._weights)
                await self._inject(name)
        except Exception as error:
            self.broken = error
            raise
        finally:
            await asyncio.gather(*self._mending)

    async def _inject(self, name: str) -> None:
        await asyncio.sleep(self.rng.uniform(*self.pause_s))
        self.counts[name] += 1
        self.begun_s.append(time.monotonic())
        # A fault that has begun is ended too: half a fault would hide what it breaks.
        begun_s = time.monotonic()
        await asyncio.shield(self.tracked(getattr(self, name)()))
        self.history.append((begun_s, time.monotonic(), name))
        ready = await asyncio.to_thread(self.fleet.ready)
        if ready is not None:
            self.ready.append((time.monotonic(), ready))
        if name == "kill_worker" and self.counts[name] % 2:
            await asyncio.sleep(UNDISTURBED_S)

    def tracked(self, fault: Awaitable[None]) -> asyncio.Task[None]:
        """Run something that is waited for at the end."""
        task = asyncio.ensure_future(fault)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)
        return task
