"""What happened while an answer paused for long: faults, workers, and what its client met."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.faults import Faults
    from tests.chaos.load import Outcome

LONG_S = 15.0
MOST = 12


def explained(outcomes: Sequence[Outcome], faults: Faults) -> list[str]:
    """Return a line for each of the longest pauses."""
    pauses = sorted(
        (
            (end_s - begun_s, begun_s, end_s, outcome)
            for outcome in outcomes
            for begun_s, end_s in _gaps(outcome)
            if end_s - begun_s >= LONG_S
        ),
        key=lambda pause: -pause[0],
    )
    return [_line(*pause[1:], faults) for pause in pauses[:MOST]]


def _gaps(outcome: Outcome) -> list[tuple[float, float]]:
    at_s = [outcome.begun_s, *(at for at, _ in outcome.arrivals)]
    if outcome.ended_s:
        at_s.append(outcome.ended_s)
    return list(itertools.pairwise(at_s))


def _line(begun_s: float, end_s: float, outcome: Outcome, faults: Faults) -> str:
    met = Counter(what for at_s, what in outcome.setbacks if begun_s <= at_s <= end_s)
    injected = [
        f"{kind} {until_s - since_s:.1f} s"
        for since_s, until_s, kind in faults.history
        if until_s >= begun_s and since_s <= end_s
    ]
    ready = [count for at_s, count in faults.ready if begun_s <= at_s <= end_s]
    return (
        f"pause of {end_s - begun_s:.1f} s ({outcome.ask.protocol} {outcome.job_id}, after "
        f"{len(outcome.text)} characters in the end): its client met {dict(met)}; workers that "
        f"served after each fault: {ready}; faults: "
        f"{', '.join(injected)}"
    )
