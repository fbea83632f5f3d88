"""Faults of workers that load their models on demand: killed in a load or an unload, failing loads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import redis

from penstock.transport import keys
from tests.chaos.loss_faults import Loss
from tests.fixtures.processes import cards
from workers.serving.on_demand.model import FIRST_PAUSE_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.fleet import Fleet
    from tests.fixtures.processes import Running

LOOK_S = 0.005
LOOK_FOR_S = 15.0
"""If no load begins by then, another worker is killed."""
WEIGHTS = "model.safetensors"
HOLLOW = b"\x08\0\0\0\0\0\0\0not json"


class LoadFaults:
    """Kinds of faults; the names of the methods are those of the kinds."""

    fleet: Fleet
    rng: random.Random
    losses: list[Loss]

    async def kill_loading(self) -> None:
        """Kill a worker while it loads a model."""
        await self._kill(self._loading)

    async def kill_unloading(self) -> None:
        """Kill a worker while it unloads a model, with the jobs that it has not handed back."""
        await self._kill(self._unloading)

    async def fail_loads(self) -> None:
        """Damage the weights of one worker's models for a while; others load them.

        If there is no other worker just then, jobs may end with that error.
        """
        loss = Loss("fail_loads", time.monotonic())
        self.losses.append(loss)
        folder = self.fleet.models_of(len(self.fleet.workers) - 1)
        whole = {path: path.read_bytes() for path in folder.rglob(WEIGHTS)}
        for path in whole:
            _replace(path, HOLLOW)
        await asyncio.sleep(self.rng.uniform(1.0, 6.0))
        for path, content in whole.items():
            _replace(path, content)
        loss.ended_s = time.monotonic() + FIRST_PAUSE_S

    async def _kill(self, which: Callable[[], int | None]) -> None:
        place = await asyncio.to_thread(_first, which)
        if place is None:
            place = self.rng.randrange(len(self.fleet.workers))
        self.fleet.workers[place].kill()
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        self.fleet.workers[place] = self.fleet.new_worker(place)

    def _loading(self) -> int | None:
        """Return the place of a worker that has reserved a load."""
        try:
            with redis.Redis.from_url(self.fleet.store.url, protocol=2) as client:
                names: Any = client.mget([keys.loading(queue) for queue in self.fleet.queues])
        except redis.RedisError:
            return None
        pids = {name.decode().split(":")[1] for name in names if name and name.count(b":") > 1}
        return self._place_of(pids)

    def _unloading(self) -> int | None:
        """Return the place of a worker whose card has an unload."""
        try:
            announced = cards(self.fleet.store.url)
        except redis.RedisError:
            return None
        return self._place_of({
            str(card.pid)
            for card in announced
            if any(state.status == "unloading" for state in card.states.values())
        })  # fmt: skip

    def _place_of(self, pids: set[str]) -> int | None:
        running: list[Running] = self.fleet.workers
        return next((place for place, one in enumerate(running) if str(one.pid) in pids), None)


def _first(which: Callable[[], int | None]) -> int | None:
    """Return the first place that is found within `LOOK_FOR_S`."""
    end_s = time.monotonic() + LOOK_FOR_S
    while time.monotonic() < end_s:
        place = which()
        if place is not None:
            return place
        time.sleep(LOOK_S)
    return None


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once: a load reads it whole, as it was or as it is."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
