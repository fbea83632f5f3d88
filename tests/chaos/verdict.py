"""What must hold after the faults, job by job, and the table that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from penstock.contract.events import Finished, Tokens
from penstock.transport import keys
from penstock.transport.jobs import journal
from tests.chaos.fleet import QUEUE
from tests.chaos.recovery import ALONE, STAGES, recoveries, summary
from tests.fixtures.redis import OWNED_BY_CELERY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.faults import Faults
    from tests.chaos.load import Outcome

MOST_RECOVERY_S = 4.0
"""The 99th percentile of a killed worker's jobs, where another worker was ready at that moment and
nothing else was broken until the client read on; whoever has taken them up."""
MOST_DRIFT = 0.1
"""Of resident memory, from a run's first third to its last."""


@dataclass
class Verdict:
    """The run in figures; `faults_found` is empty when every invariant held."""

    jobs: int
    faults: dict[str, int]
    tokens: int
    connections: int
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    recovery_s: dict[str, dict[str, float]] = field(default_factory=dict)
    """By what else was broken: jobs, and the stages of their way back in seconds after the kill."""
    longest_pause_s: float = 0.0
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    faults_found: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows: list[tuple[str, Any]] = [
            ("jobs", self.jobs),
            ("tokens", self.tokens),
            ("faults", sum(self.faults.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.faults.items())),
            ("connections of clients", self.connections),
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("wrong", self.wrong),
            ("longest pause s", round(self.longest_pause_s, 2)),
            *(
                (f"memory of {kind} MiB, first and last third", sizes)
                for kind, sizes in self.memory_mib.items()
            ),
        ]
        lines = [f"| {name} | {value} |" for name, value in rows]
        found = [f"- {one}" for one in self.faults_found]
        return "\n".join(["| | |", "|---|---|", *lines, "", *self._recovery_table(), *found])

    def _recovery_table(self) -> list[str]:
        stages = ("jobs", *(f"{stage} {at}" for stage in STAGES for at in ("p50", "p99")))
        lines = [
            f"| jobs of killed workers: s after the kill | {' | '.join(stages)} |",
            "|---" * (len(stages) + 1) + "|",
        ]
        lines += [
            f"| {name} | {' | '.join(str(row[stage]) for stage in stages)} |"
            for name, row in self.recovery_s.items()
        ]
        return [*lines, ""] if self.recovery_s else []

    def shortfalls(self) -> list[str]:
        """Return which aims a long run has missed; a busy machine misses the first without a fault."""
        missed: list[str] = []
        if self.recovery_s.get(ALONE, {}).get("told p99", 0.0) >= MOST_RECOVERY_S:
            missed.append(f"jobs of a killed worker went on after {MOST_RECOVERY_S:g} s or more")
        for kind, (first, last) in self.memory_mib.items():
            if abs(last - first) > MOST_DRIFT * first:
                missed.append(f"the memory of {kind} processes went from {first} to {last} MiB")
        return missed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(outcomes: Sequence[Outcome], faults: Faults, store_url: str) -> Verdict:
    """Check every client's text and, in Redis, every job's state and journal."""
    verdict = Verdict(
        jobs=len(outcomes),
        faults=dict(faults.counts),
        tokens=sum(outcome.ask.max_tokens for outcome in outcomes),
        connections=sum(outcome.connections for outcome in outcomes),
        longest_pause_s=max(outcome.longest_pause_s() for outcome in outcomes),
    )
    for outcome in outcomes:
        if outcome.error:
            verdict.lost += 1
            verdict.faults_found.append(f"{outcome.job_id}: {outcome.error}")
        elif outcome.doubled:
            verdict.doubled += 1
            verdict.faults_found.append(f"{outcome.job_id}: {outcome.doubled} events twice")
        elif outcome.text != outcome.ask.text:
            verdict.wrong += 1
            at = _first_difference(outcome.text, outcome.ask.text)
            verdict.faults_found.append(
                f"{outcome.job_id}: text differs from character {at} of {len(outcome.ask.text)}, "
                f"temperature {outcome.ask.temperature}"
            )
    verdict.recovery_s = summary(recoveries(outcomes, faults.kills, faults.begun_s))
    with redis.Redis.from_url(store_url, protocol=2) as client:
        for outcome in outcomes:
            verdict.faults_found += _journal_faults(client, outcome)
        verdict.faults_found += [
            f"key without an expiry: {key.decode()}"
            for key in client.scan_iter()
            if client.ttl(key) == -1 and not key.decode().startswith(OWNED_BY_CELERY)
        ]
    return verdict


def _journal_faults(client: redis.Redis, outcome: Outcome) -> list[str]:
    if outcome.error:
        return []
    status = client.hget(keys.job(QUEUE, outcome.job_id), "state")
    events = journal.read(client, QUEUE, outcome.job_id, limit=100_000)
    faults: list[str] = []
    if status != b"finished":
        faults.append(f"{outcome.job_id}: its state is {status!r}")
    expected = 0
    for event in events:
        if event.index != expected:
            faults.append(f"{outcome.job_id}: index {event.index} where {expected} belongs")
            break
        expected += len(event.token_ids) if isinstance(event, Tokens) else 0
    ends = [event for event in events if not isinstance(event, Tokens)]
    if len(ends) != 1 or not isinstance(events[-1], Finished):
        faults.append(f"{outcome.job_id}: {len(ends)} terminal events")
    text = "".join(event.text for event in events if isinstance(event, Tokens | Finished))
    if text != outcome.ask.text:
        faults.append(f"{outcome.job_id}: its journal's text is not the undisturbed one")
    return faults


def _first_difference(one: str, other: str) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
