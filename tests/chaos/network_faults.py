"""Faults of the network: connections that stall, and partitions, one way and both ways."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.chaos.proxy import shut

if TYPE_CHECKING:
    import random

    from tests.chaos.fleet import Door, Fleet
    from tests.chaos.networks import Link

LONGEST_S = 9.0
"""Longer than leases live (2 s), and shorter than the fleet's patience."""
WAYS = ((True, True), (True, False), (False, True))


class NetworkFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random

    # -- by the proxy

    async def lose_network(self) -> None:
        """Swallow everything between one worker and Redis, for longer than its leases live."""
        async with self.fleet.proxy.lost(self.rng.choice(self.fleet.worker_doors).port):
            await asyncio.sleep(self.rng.uniform(2.5, LONGEST_S))

    async def stall_one_way(self) -> None:
        """Hold back what goes to Redis, or what comes from it; of everybody, or of one process."""
        there = self.rng.random() < 0.5
        doors = [*self.fleet.worker_doors, *self.fleet.api_doors]
        if self.rng.random() < 0.5:
            stalled = self.fleet.proxy.stalled(there=there, back=not there)
        else:
            gates = self.fleet.proxy.door(self.rng.choice(doors).port)
            stalled = shut([gates.there if there else gates.back])
        async with stalled:
            await asyncio.sleep(self.rng.uniform(0.3, LONGEST_S))

    async def stall_connections(self) -> None:
        """Hold back some connections, in one direction each, while the others go on."""
        some = self.fleet.proxy.some_connections(self.rng)
        async with shut([self.rng.choice(gates.both()) for gates in some]):
            await asyncio.sleep(self.rng.uniform(0.3, LONGEST_S))

    # -- by namespaces

    async def partition_worker(self) -> None:
        """Lose the packets between a worker and Redis."""
        await self._partition([self.rng.choice(self.fleet.worker_doors)])

    async def partition_api(self) -> None:
        """Lose the packets between an API process and Redis."""
        await self._partition([self.rng.choice(self.fleet.api_doors)])

    async def partition_clients(self) -> None:
        """Lose the packets between an API process and its clients."""
        await self._partition([self.rng.choice(self.fleet.api_doors)], clients=True)

    async def partition_redis(self) -> None:
        """Lose the packets between Redis and everybody."""
        await self._partition([*self.fleet.worker_doors, *self.fleet.api_doors])

    async def _partition(self, doors: list[Door], *, clients: bool = False) -> None:
        to_process, from_process = self.rng.choice(WAYS)
        with contextlib.ExitStack() as stack:
            for door in doors:
                assert door.network
                link: Link = door.network.clients if clients else door.network.store
                stack.enter_context(
                    door.network.lost(link, to_process=to_process, from_process=from_process)
                )
            await asyncio.sleep(self.rng.uniform(0.5, LONGEST_S))
