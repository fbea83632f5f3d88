"""What must hold after the faults, job by job, and the table that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from tests.chaos import pauses
from tests.chaos.load import NO_END
from tests.chaos.memory import drifts
from tests.chaos.recovery import ALONE, STAGES, recoveries, summary
from tests.fixtures.redis import OWNED_BY_CELERY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.audit import Audit
    from tests.chaos.load import Outcome

MOST_RECOVERY_S = 4.0
"""The 99th percentile of a killed worker's jobs, where another worker was ready at that moment and
nothing else was broken until the client read on; whoever has taken them up."""
_BEFORE, _BEHIND = 20, 40
"""Characters that are shown around a difference."""
LONG_S = 600.0
"""Memory is judged in runs of this length or longer."""


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
    """Ended well, with another text."""
    spliced: int = 0
    """Did not end well, and what came of it is no beginning of the right text."""
    hung: int = 0
    """Had neither an end nor an error in time."""
    by_protocol: dict[str, dict[str, int]] = field(default_factory=dict)
    """Jobs, and those that ended well, of each protocol."""
    pauses: list[str] = field(default_factory=list)
    """What was seen during each of the longest pauses."""
    once: int = 0
    """Jobs without an `Idempotency-Key`, which are asked for once."""
    broken_off: dict[str, int] = field(default_factory=dict)
    """What those of them ended with that did not end well."""
    lost_store: int = 0
    """Jobs that ran while Redis lost what it had promised to keep."""
    errors_after_loss: dict[str, int] = field(default_factory=dict)
    """What those of them ended with that did not end well."""
    tracebacks: dict[str, int] = field(default_factory=dict)
    """Errors that no process should have met, by their last lines in the logs."""
    audited: int = 0
    """Jobs whose journal and state in Redis were checked after their end."""
    recovery_s: dict[str, dict[str, float]] = field(default_factory=dict)
    """By what else was broken: jobs, and the stages of their way back in seconds after the kill."""
    longest_pause_s: float = 0.0
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    """Mean of each quarter of the run."""
    memory_minutes: list[dict[str, float]] = field(default_factory=list)
    redis_excesses: list[str] = field(default_factory=list)
    """What Redis had in its memory that no job explains."""
    seconds: float = 0.0
    tokens_per_s: float = 0.0
    faults_found: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows: list[tuple[str, Any]] = [
            ("jobs", self.jobs),
            *(
                (f"  {name}: jobs, ended well", list(counts.values()))
                for name, counts in sorted(self.by_protocol.items())
            ),
            ("tokens", self.tokens),
            ("faults", sum(self.faults.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.faults.items())),
            ("connections of clients", self.connections),
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("wrong", self.wrong),
            ("spliced", self.spliced),
            ("hung", self.hung),
            ("jobs asked for once, without a key", self.once),
            *((f"  broken off: {what}", n) for what, n in sorted(self.broken_off.items())),
            ("jobs while Redis lost its memory", self.lost_store),
            *((f"  ended with: {what}", n) for what, n in sorted(self.errors_after_loss.items())),
            ("journals checked", self.audited),
            ("tracebacks in logs", sum(self.tracebacks.values())),
            *((f"  {what}", n) for what, n in sorted(self.tracebacks.items())),
            ("tokens a second", round(self.tokens_per_s)),
            ("longest pause s", round(self.longest_pause_s, 2)),
            *(
                (f"memory of {kind} MiB, by quarters", sizes)
                for kind, sizes in self.memory_mib.items()
            ),
        ]
        lines = [f"| {name} | {value} |" for name, value in rows]
        found = [f"- {one}" for one in (*self.faults_found, *self.pauses)]
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
        if self.seconds >= LONG_S:
            missed += [*drifts(self.memory_mib), *self.redis_excesses]
        return missed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(outcomes: Sequence[Outcome], audit: Audit, store_urls: Sequence[str]) -> Verdict:
    """Check every client's text, and what is left in each Redis."""
    faults = audit.faults
    verdict = Verdict(
        jobs=len(outcomes),
        faults=dict(faults.counts),
        tokens=sum(outcome.ask.max_tokens for outcome in outcomes),
        connections=sum(outcome.connections for outcome in outcomes),
        once=sum(not outcome.resumes for outcome in outcomes),
        audited=audit.checked,
        longest_pause_s=max(outcome.longest_pause_s() for outcome in outcomes),
    )
    for outcome in outcomes:
        counts = verdict.by_protocol.setdefault(outcome.ask.protocol, {"jobs": 0, "well": 0})
        counts["jobs"] += 1
        counts["well"] += bool(outcome.right and outcome.finish_reason)
        has_lost = audit.overlapped_a_loss(outcome)
        verdict.lost_store += has_lost
        _judge_one(verdict, outcome, has_lost=has_lost)
    verdict.pauses = pauses.explained(outcomes, faults)
    verdict.recovery_s = summary(recoveries(outcomes, faults.kills, faults.begun_s))
    verdict.faults_found += audit.faults_found
    for url in store_urls:
        with redis.Redis.from_url(url, protocol=2) as client:
            verdict.faults_found += [
                f"key without an expiry: {key.decode()}"
                for key in client.scan_iter()
                if client.ttl(key) == -1 and not key.decode().startswith(OWNED_BY_CELERY)
            ]
    return verdict


def _judge_one(verdict: Verdict, outcome: Outcome, *, has_lost: bool) -> None:
    """Count one job; what must not be gets a line."""
    name = f"{outcome.ask.protocol} {outcome.job_id or 'without an id'}"
    if outcome.doubled:
        verdict.doubled += 1
        verdict.faults_found.append(f"{name}: {outcome.doubled} events twice")
    elif outcome.error.startswith(NO_END):
        verdict.hung += 1
        verdict.faults_found.append(f"{name}: {outcome.error}")
    elif outcome.spliced:
        ended = bool(outcome.finish_reason)
        verdict.wrong += ended
        verdict.spliced += not ended
        heard = next(
            one for one in (*outcome.earlier, outcome.text) if not outcome.ask.text.startswith(one)
        )
        at = _first_difference(heard, outcome.ask.text)
        verdict.faults_found.append(
            f"{name}: text differs from character {at} of {len(outcome.ask.text)}, "
            f"temperature {outcome.ask.temperature}: {_around(heard, at)} for "
            f"{_around(outcome.ask.text, at)}; {outcome.error or outcome.refusal}"
        )
    elif outcome.error and has_lost and outcome.is_protocol_error:
        count(verdict.errors_after_loss, outcome.error_kind)
    elif outcome.error:
        verdict.lost += 1
        verdict.faults_found.append(f"{name}: {outcome.error}")
    elif outcome.refusal:
        count(verdict.broken_off, outcome.refusal)
    elif outcome.text != outcome.ask.text:
        verdict.wrong += 1
        verdict.faults_found.append(
            f"{name}: ended after {len(outcome.text)} of {len(outcome.ask.text)} characters"
        )


def count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def _around(text: str, at: int) -> str:
    return repr(text[max(at - _BEFORE, 0) : at + _BEHIND])


def _first_difference(one: str, other: str) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
