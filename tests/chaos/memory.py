"""The memory of API, worker and Redis processes over a run, and whether it stays flat."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import redis

from penstock.transport import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.fleet import Fleet

EVERY_S = 5.0
SETTLED_S = 60.0
"""A process is looked at from this age on: before it, it loads its model."""
MOST_DRIFT = 0.1
PARTS = 4
"""A run is compared by its quarters; the first is left out: caches fill."""
FLAT = ("worker", "api", "spared worker", "spared api", "redis resident")
"""What must not drift. Redis's own account moves with each loss of its memory."""


@dataclass
class Sample:
    """Sizes in MiB at one moment, by kind, and the keys in Redis."""

    at_s: float
    mib: dict[str, list[float]]
    keys: int = 0


@dataclass
class Watch:
    """Takes samples until cancelled."""

    fleet: Fleet
    begun_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Look every few seconds."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.samples.append(await asyncio.to_thread(self._sample))

    def _sample(self) -> Sample:
        mib: dict[str, list[float]] = {}
        for kind, pids in (
            ("worker", [one.pid for one in self.fleet.workers]),
            ("api", [one.pid for one in self.fleet.apis]),
        ):
            mib[kind] = _resident(pids)
            mib[f"spared {kind}"] = _resident(pids[:1])
        sample = Sample(time.monotonic() - self.begun_s, mib)
        try:
            mib["redis resident"] = _resident([self.fleet.store.pid], age_s=0.0)
            with redis.Redis.from_url(
                self.fleet.store.url, protocol=2, socket_timeout=EVERY_S
            ) as client:
                mib["redis data"] = [client.info("memory")["used_memory"] / 2**20]
                mib["redis usage log"] = [(client.memory_usage(keys.USAGE) or 0) / 2**20]
                sample.keys = client.dbsize()
        except (redis.RedisError, AssertionError):  # it is away, or was killed
            pass
        return sample

    def quarters(self, *, spared: bool) -> dict[str, list[float]]:
        """Return the mean of each quarter of the run, by kind."""
        kinds = [kind for kind in _kinds(self.samples) if spared or not kind.startswith("spared")]
        return {kind: means for kind in kinds if (means := self._means(kind))}

    def _means(self, kind: str) -> list[float]:
        if not self.samples:
            return []
        length_s = self.samples[-1].at_s / PARTS
        sizes: list[list[float]] = [[] for _ in range(PARTS)]
        for sample in self.samples:
            part = min(int(sample.at_s / length_s), PARTS - 1)
            sizes[part] += sample.mib.get(kind, [])
        return [round(statistics.mean(part), 1) for part in sizes] if all(sizes) else []

    def minutes(self) -> list[dict[str, float]]:
        """Return a row for each minute: the mean of each kind, and the most keys."""
        rows: list[dict[str, float]] = []
        for minute in range(int(self.samples[-1].at_s // 60) + 1 if self.samples else 0):
            its = [one for one in self.samples if one.at_s // 60 == minute]
            row: dict[str, float] = {
                "minute": minute,
                "keys": max((o.keys for o in its), default=0),
            }
            for kind in _kinds(its):
                sizes = [size for one in its for size in one.mib.get(kind, [])]
                if sizes:
                    row[kind] = round(statistics.mean(sizes), 1)
            rows.append(row)
        return rows


def _kinds(samples: Iterable[Sample]) -> list[str]:
    return sorted({kind for sample in samples for kind in sample.mib})


def _resident(pids: Sequence[int], age_s: float = SETTLED_S) -> list[float]:
    """Return the resident sizes (MiB) of processes of this age."""
    sizes: list[float] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            size_mib = process.memory_info().rss / 2**20
            if time.time() - process.create_time() >= age_s and size_mib:  # a zombie has no size
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
