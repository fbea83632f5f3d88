"""How both sides call the reaper: several runs of its script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.transport.jobs.records import ReapResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.settings import Settings

REAP_PAUSE_MS: Final = 250
"""The least time between two runs on a queue, enforced by Redis for all processes; an expired
lease is exempt."""
REAP_MOST: Final = 64
"""Leases, deadlines and doorbells that one run looks at: it blocks Redis while it runs."""
REAP_RUNS: Final = 32
"""Most runs of one call: a whole rack of workers can die at once."""


def arguments(settings: Settings) -> tuple[int, int, int]:
    """Return the script's arguments; see `reap.lua`."""
    return (settings.max_attempts, min(REAP_PAUSE_MS, settings.lease_ms // 8), REAP_MOST)


def result(runs: Sequence[Sequence[int]]) -> ReapResult:
    """Return the sum of several runs."""
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
    """Return whether the last run left jobs behind, so that another may follow at once."""
    return sum(runs[-1][:3]) >= REAP_MOST and len(runs) < REAP_RUNS
