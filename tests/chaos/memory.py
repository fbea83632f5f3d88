"""The memory of API, worker and Redis processes over a run, and whether it stays flat."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import redis

from tests.chaos import redis_memory
from tests.fixtures.processes import cards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.contract.worker import WorkerCard
    from tests.chaos.fleet import Fleet
    from tests.chaos.redis_memory import RedisSample

EVERY_S = 5.0
SETTLED_S = 60.0
"""A process is looked at from this age on: before it, it loads its model."""
MOST_DRIFT = 0.1
PARTS = 4
"""A run is compared by its quarters; the first is left out: caches fill."""
FLAT = ("worker", "api", "spared worker", "spared api")
"""What must not drift; `redis_memory` judges Redis."""


@dataclass
class Sample:
    """Sizes in MiB at one moment, by kind, and what Redis had, if it was there."""

    at_s: float
    mib: dict[str, list[float]]
    store: RedisSample | None = None


@dataclass
class Watch:
    """Takes samples until cancelled.

    `asked_since` returns how many jobs were in flight at or after a moment (monotonic).
    """

    fleet: Fleet
    asked_since: Callable[[float], int]
    crowded: set[str] = field(default_factory=set[str])
    """Workers that had more models in memory than they may."""
    begun_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Look every few seconds."""
        while True:
            await asyncio.sleep(EVERY_S)
            asked = self.asked_since(time.monotonic() - self.fleet.journal_ttl_s)
            self.samples.append(await asyncio.to_thread(self._sample, asked))

    def _sample(self, asked: int) -> Sample:
        mib: dict[str, list[float]] = {}
        for kind, pids in (
            ("worker", [one.pid for one in self.fleet.workers]),
            ("api", [one.pid for one in self.fleet.apis]),
        ):
            mib[kind] = _resident(pids)
            mib[f"spared {kind}"] = _resident(pids[:1])
        sample = Sample(time.monotonic() - self.begun_s, mib)
        try:
            with redis.Redis.from_url(
                self.fleet.store.url, protocol=2, socket_timeout=EVERY_S
            ) as client:
                sample.store = store = redis_memory.look(client, self.fleet.store.pid, asked)
            if self.fleet.on_demand:
                self.crowded |= _crowded(cards(self.fleet.store.url))
        except (redis.RedisError, psutil.Error, AssertionError):  # it is away, or was killed
            return sample
        mib["redis resident"], mib["redis data"] = [store.resident], [store.data]
        mib["redis shared keys"] = [store.shared]
        return sample

    def quarters(self, *, spared: bool) -> dict[str, list[float]]:
        """Return the mean of each quarter of the run, by kind."""
        kinds = [kind for kind in _kinds(self.samples) if spared or not kind.startswith("spared")]
        return {kind: means for kind in kinds if (means := self._means(kind))}

    def _means(self, kind: str) -> list[float]:
        sizes = [
            [size for sample in part for size in sample.mib.get(kind, [])] for part in self._parts()
        ]
        return [round(statistics.mean(part), 1) for part in sizes] if all(sizes) else []

    def _parts(self) -> list[list[Sample]]:
        parts: list[list[Sample]] = [[] for _ in range(PARTS)]
        for sample in self.samples:
            length_s = self.samples[-1].at_s / PARTS
            parts[min(int(sample.at_s / length_s), PARTS - 1)].append(sample)
        return parts

    def excesses(self) -> list[str]:
        """Return what Redis had that the jobs do not explain."""
        return redis_memory.excesses(
            [[one.store for one in part if one.store] for part in self._parts()]
        )

    def minutes(self) -> list[dict[str, float]]:
        """Return a row for each minute: the mean of each kind, and the most of what Redis counts."""
        rows: list[dict[str, float]] = []
        for minute in range(int(self.samples[-1].at_s // 60) + 1 if self.samples else 0):
            its = [one for one in self.samples if one.at_s // 60 == minute]
            row: dict[str, float] = {"minute": minute}
            for name in ("keys", "jobs", "asked", "clients"):
                row[name] = max((getattr(one.store, name) for one in its if one.store), default=0)
            for kind in _kinds(its):
                sizes = [size for one in its for size in one.mib.get(kind, [])]
                if sizes:
                    row[kind] = round(statistics.mean(sizes), 1)
            rows.append(row)
        return rows


def _crowded(announced: Iterable[WorkerCard]) -> set[str]:
    """Return the workers that have more than the one model for which they have room."""
    return {
        card.id
        for card in announced
        if sum(state.status == "loaded" for state in card.states.values()) > 1
    }


def _kinds(samples: Iterable[Sample]) -> list[str]:
    return sorted({kind for sample in samples for kind in sample.mib})


def _resident(pids: Sequence[int]) -> list[float]:
    """Return the resident sizes (MiB) of processes of this age."""
    sizes: list[float] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            size_mib = process.memory_info().rss / 2**20
            # A zombie has no size.
            if time.time() - process.create_time() >= SETTLED_S and size_mib:
                sizes.append(size_mib)
        except psutil.Error:
            continue
    return sizes


def drifts(quarters: dict[str, list[float]]) -> list[str]:
    """Return which kinds of processes have not stayed flat after their first quarter."""
    return [
        f"the memory of {kind} went from {means[1]} to {means[-1]} MiB"
        for kind, means in quarters.items()
        if kind in FLAT and abs(means[-1] - means[1]) > MOST_DRIFT * means[1]
    ]
