"""What Redis holds during a run, and whether it is what the jobs of the last minutes explain.

Redis's resident size moves with the jobs in flight and with each loss of its memory, so it is not
judged by its drift. What is judged: the memory of what belongs to no single job, what a job leaves
behind, how many jobs are remembered, and what the process has beyond its own account of its data.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

OF_A_JOB = re.compile(rb":(?:job|journal|claim|image|locate|response):")
"""Keys of one job, or of one answer that is kept; all others are shared by many."""
JOB = re.compile(rb":job:(.+)$")
PAGE = 500
LEAST_JOBS = 100
"""A sample with fewer jobs has nothing to say about what one of them takes."""
BESIDE_MIB = 10.0
BESIDE_SHARE = 0.25
"""What the process may have beside the most that its data has taken: code, buffers, fragments."""
MOST_GROWTH = 0.25
SLACK_MIB = 0.5
"""Shared keys may grow by this, however small they are: caches of answers, the usage log."""
MOST_KEPT = 1.25
SPARE_JOBS = 50
"""Jobs that Redis may have beyond those that clients have asked for in the time of a journal."""


@dataclass(frozen=True)
class RedisSample:
    """One look at Redis; sizes in MiB.

    `peak` is the most that its data has taken since its process began. `shared` is what keys take
    that belong to no single job; `per_job` (KiB) what a job takes with all of its keys. `jobs` are
    remembered, `asked` is how many jobs were in flight in the last minutes.
    """

    resident: float
    data: float
    peak: float
    keys: int
    shared: float
    per_job: float
    jobs: int
    asked: int
    clients: int


def look(client: Any, pid: int, asked: int) -> RedisSample:
    """Take a sample.

    :raises redis.RedisError, psutil.Error: it is away, or was killed.
    """
    resident = psutil.Process(pid).memory_info().rss
    memory = client.info("memory")
    names: list[bytes] = list(client.scan_iter(count=PAGE))
    own = shared = 0
    for start in range(0, len(names), PAGE):
        some = names[start : start + PAGE]
        pipeline = client.pipeline(transaction=False)
        for name in some:
            pipeline.memory_usage(name)
        for name, size in zip(some, pipeline.execute(), strict=True):
            if OF_A_JOB.search(name):
                own += size or 0
            else:
                shared += size or 0
    jobs = len({match[1] for name in names if (match := JOB.search(name))})
    return RedisSample(
        resident=resident / 2**20,
        data=memory["used_memory"] / 2**20,
        peak=memory["used_memory_peak"] / 2**20,
        keys=len(names),
        shared=shared / 2**20,
        per_job=own / 2**10 / max(jobs, 1),
        jobs=jobs,
        asked=asked,
        clients=client.info("clients")["connected_clients"],
    )


def excesses(quarters: Sequence[Sequence[RedisSample]]) -> list[str]:
    """Return what Redis had that the jobs do not explain; nothing if a quarter has no sample."""
    if not all(quarters):
        return []
    samples = [sample for quarter in quarters for sample in quarter]
    return [
        *_shared(quarters[1], quarters[-1]),
        *_per_job(quarters[1], quarters[-1]),
        *_kept(samples),
        *_beside(samples),
    ]


def _shared(early: Sequence[RedisSample], late: Sequence[RedisSample]) -> list[str]:
    before, after = (max(one.shared for one in part) for part in (early, late))
    if after <= before * (1 + MOST_GROWTH) + SLACK_MIB:
        return []
    return [f"keys of Redis that belong to no job went from {before:.1f} to {after:.1f} MiB"]


def _per_job(early: Sequence[RedisSample], late: Sequence[RedisSample]) -> list[str]:
    """Compare medians: a sample shortly after a loss has jobs of few tokens alone."""
    sizes = [[one.per_job for one in part if one.jobs >= LEAST_JOBS] for part in (early, late)]
    if not all(sizes):
        return []
    before, after = (statistics.median(part) for part in sizes)
    if after <= before * (1 + MOST_GROWTH):
        return []
    return [f"what a job leaves in Redis went from {before:.1f} to {after:.1f} KiB"]


def _kept(samples: Sequence[RedisSample]) -> list[str]:
    worst = max(samples, key=lambda one: one.jobs - MOST_KEPT * one.asked)
    if worst.jobs <= worst.asked * MOST_KEPT + SPARE_JOBS:
        return []
    return [
        f"Redis had {worst.jobs} jobs when {worst.asked} had been in flight since a journal's life"
    ]


def _beside(samples: Sequence[RedisSample]) -> list[str]:
    worst = max(samples, key=lambda one: one.resident - one.peak * (1 + BESIDE_SHARE))
    if worst.resident <= worst.peak * (1 + BESIDE_SHARE) + BESIDE_MIB:
        return []
    most = f"its data had never taken more than {worst.peak:.1f} MiB"
    return [f"Redis took {worst.resident:.1f} MiB, and {most}"]
