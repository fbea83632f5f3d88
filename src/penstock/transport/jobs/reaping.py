"""How a call of the reaper goes, from either side: some runs of its script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.transport.jobs.records import ReapResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.settings import Settings

REAP_PAUSE_MS: Final = 250
"""Redis itself refuses to reap a queue more often, however many processes ask, but for a lease that
is over."""
REAP_MOST: Final = 64
"""Leases, deadlines and doorbells that one run of the reaper looks at: it holds Redis up."""
REAP_RUNS: Final = 32
"""Runs that one call may need: a rack of workers can die at once."""


def arguments(settings: Settings) -> tuple[int, int, int]:
    """Return those of the script; see there."""
    return (settings.max_attempts, min(REAP_PAUSE_MS, settings.lease_ms // 8), REAP_MOST)


def result(runs: Sequence[Sequence[int]]) -> ReapResult:
    """Return what some runs have put right together."""
    requeued, poisoned, expired, rung, _ = map(sum, zip(*runs, strict=True))
    left_ms = runs[-1][4]
    return ReapResult(
        requeued=requeued,
        poisoned=poisoned,
        expired=expired,
        rung=rung,
        next_end_s=None if left_ms < 0 else left_ms / 1000,
    )


def stopped_early(runs: Sequence[Sequence[int]]) -> bool:
    """Return whether the last run has left jobs behind, and another may follow at once."""
    return sum(runs[-1][:3]) >= REAP_MOST and len(runs) < REAP_RUNS
