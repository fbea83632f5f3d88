"""How long the jobs of a killed worker take to go on, and what they wait for meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from penstock.transport import keys
from tests.chaos.fleet import QUEUE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.chaos.load import Outcome

LOOK_EVERY_S = 0.02
LOOK_FOR_S = 20.0

STAGES = ("noticed", "claimed", "written", "told")

ALONE = "kill alone"
NOBODY = "kill alone, no other worker ready"
AMONG = "among further faults"


@dataclass
class Orphan:
    """A job that a worker held when it was killed. Times are monotonic, 0 where it did not happen."""

    job_id: str
    epoch: int
    next_index: int
    noticed_s: float = 0.0
    """Its lease has run out, and somebody has reaped it."""
    claimed_s: float = 0.0
    by: str = ""
    written_s: float = 0.0
    """The next token is in the journal."""


@dataclass
class Kill:
    """A worker that was killed at `at_s` (monotonic), while `ready` workers served beside it."""

    at_s: float
    ready: frozenset[str]
    orphans: list[Orphan] = field(default_factory=list)


async def watch(store_url: str, kill: Kill, job_ids: Sequence[str]) -> None:
    """Follow a dead worker's jobs until each has gone on; Redis may be away meanwhile."""
    await asyncio.to_thread(_watch, store_url, kill, job_ids)


def _watch(store_url: str, kill: Kill, job_ids: Sequence[str]) -> None:
    known: dict[str, Orphan] = {}
    waited_for = set(job_ids)
    end_s = time.monotonic() + LOOK_FOR_S
    with redis.Redis.from_url(store_url, protocol=2) as client:
        while waited_for and time.monotonic() < end_s:
            time.sleep(LOOK_EVERY_S)
            try:
                found = _look(client, sorted(waited_for))
            except redis.RedisError:
                continue
            for job_id, fields in found.items():
                if _is_settled(kill, known, job_id, fields):
                    waited_for.discard(job_id)


def _look(client: Any, job_ids: Sequence[str]) -> dict[str, list[bytes | None]]:
    pipeline = client.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hmget(keys.job(QUEUE, job_id), ("state", "epoch", "next", "worker"))
    return dict(zip(job_ids, pipeline.execute(), strict=True))


def _is_settled(
    kill: Kill, known: dict[str, Orphan], job_id: str, fields: list[bytes | None]
) -> bool:
    """Take note of where a job is; True where nothing more is to be seen."""
    state, epoch, next_index, worker = (field or b"" for field in fields)
    now_s = time.monotonic()
    orphan = known.get(job_id)
    if orphan is None:
        if state != b"running":
            return True  # it ended before the kill
        orphan = known[job_id] = Orphan(job_id, int(epoch), int(next_index))
        kill.orphans.append(orphan)
        return False
    if state == b"waiting" or int(epoch or 0) > orphan.epoch:
        orphan.noticed_s = orphan.noticed_s or now_s
    if int(epoch or 0) > orphan.epoch and not orphan.claimed_s:
        orphan.claimed_s, orphan.by = now_s, worker.decode()
    if orphan.claimed_s and int(next_index) > orphan.next_index:
        orphan.written_s = now_s
        return True
    return state not in {b"running", b"waiting"}


@dataclass(frozen=True)
class Recovery:
    """One job's way back, in seconds after the kill; `told_s` is when its client read on."""

    kind: str
    noticed_s: float
    claimed_s: float
    written_s: float
    told_s: float
    by_restarted: bool


def recoveries(
    outcomes: Sequence[Outcome], kills: Sequence[Kill], begun_s: Sequence[float]
) -> list[Recovery]:
    """Return the ways of all jobs that killed workers held, as far as their clients were there."""
    by_id = {outcome.job_id: outcome for outcome in outcomes}
    return [
        recovery
        for kill in kills
        for orphan in kill.orphans
        if (recovery := _recovery(by_id, kill, orphan, begun_s))
    ]


def _recovery(
    by_id: Mapping[str, Outcome], kill: Kill, orphan: Orphan, begun_s: Sequence[float]
) -> Recovery | None:
    outcome = by_id.get(orphan.job_id)
    if outcome is None or not orphan.written_s:
        return None
    # What the dead worker has written may still be on its way: only later tokens count.
    told = [at for at, index in outcome.arrivals if at > kill.at_s and index >= orphan.next_index]
    if not told:
        return None
    if any(kill.at_s < at_s < told[0] for at_s in begun_s):
        kind = AMONG
    else:
        kind = ALONE if kill.ready else NOBODY
    return Recovery(
        kind,
        orphan.noticed_s - kill.at_s,
        orphan.claimed_s - kill.at_s,
        orphan.written_s - kill.at_s,
        told[0] - kill.at_s,
        orphan.by not in kill.ready,
    )


def percentile(times: Sequence[float], share: float) -> float:
    """Return the time that this share of the others does not exceed."""
    return sorted(times)[int(share * (len(times) - 1))]


def summary(found: Sequence[Recovery]) -> dict[str, dict[str, float]]:
    """Return, for each kind, how many jobs and the median and 99th percentile of each stage."""
    rows: dict[str, dict[str, float]] = {}
    for kind in (ALONE, NOBODY, AMONG):
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            rows[kind] = _row(of_kind)
    alone = [one for one in found if one.kind == ALONE]
    for name, restarted in (("a running worker", False), ("a restarted worker", True)):
        taken_up = [one for one in alone if one.by_restarted is restarted]
        if taken_up:
            rows[f"{ALONE}, taken up by {name}"] = _row(taken_up)
    return rows


def _row(found: Sequence[Recovery]) -> dict[str, float]:
    row: dict[str, float] = {"jobs": len(found)}
    for stage in STAGES:
        times = [getattr(one, f"{stage}_s") for one in found]
        row[f"{stage} p50"] = round(statistics.median(times), 2)
        row[f"{stage} p99"] = round(percentile(times, 0.99), 2)
    return row
