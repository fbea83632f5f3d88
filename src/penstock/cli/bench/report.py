"""From samples to the figures that are printed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.cli.bench.load import Sample


class Percentiles(msgspec.Struct, frozen=True):
    """Of one quantity, in milliseconds or tokens/s; zeros where nothing was seen."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What a run showed. Rates count whole answers only, over the run's wall clock.

    `ttft_ms` counts from when a request was due, so an open loop's wait in the client shows;
    `itl_ms` is the time between two pieces of text of one answer; `stream_tokens_per_s` is what a
    single answer ran at after its first piece. `late_ms` is how late requests left the client:
    large values mean that this client, not the server, was the limit.
    """

    requests: int
    completed: int
    errors: dict[str, int]
    wall_s: float
    requests_per_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    ttft_ms: Percentiles
    itl_ms: Percentiles
    end_to_end_ms: Percentiles
    stream_tokens_per_s: Percentiles
    late_ms: Percentiles


def percentiles(values: Iterable[float]) -> Percentiles:
    """Compute percentiles by linear interpolation between ranks."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles()

    def at(share: float) -> float:
        rank = share * (len(ordered) - 1)
        low = int(rank)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)

    return Percentiles(at(0.5), at(0.9), at(0.99), ordered[-1])


def summarise(samples: Sequence[Sample]) -> Report:
    """Reduce the samples of one run, at least one."""
    whole = [one for one in samples if not one.error]
    spoken = [one for one in whole if one.pieces_at]
    wall_s = max(one.ended_at for one in samples) - min(one.due_at for one in samples)
    tokens = sum(one.completion_tokens for one in whole)
    gaps = (b - a for one in spoken for a, b in pairwise(one.pieces_at))
    return Report(
        requests=len(samples),
        completed=len(whole),
        errors=dict(Counter(one.error for one in samples if one.error)),
        wall_s=wall_s,
        requests_per_s=len(whole) / wall_s,
        prompt_tokens=sum(one.prompt_tokens for one in whole),
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s,
        ttft_ms=percentiles(1e3 * (one.pieces_at[0] - one.due_at) for one in spoken),
        itl_ms=percentiles(1e3 * gap for gap in gaps),
        end_to_end_ms=percentiles(1e3 * (one.ended_at - one.due_at) for one in whole),
        stream_tokens_per_s=percentiles(_own_rates(spoken)),
        late_ms=percentiles(1e3 * (one.sent_at - one.due_at) for one in samples),
    )


def _own_rates(spoken: Sequence[Sample]) -> Iterable[float]:
    for one in spoken:
        span = one.pieces_at[-1] - one.pieces_at[0]
        if span > 0 and one.completion_tokens > 1:
            yield (one.completion_tokens - 1) / span


def table(report: Report, title: str) -> Table:
    """Lay the report out for a terminal."""
    laid = Table(title=title, title_justify="left")
    laid.add_column("")
    for name in ("p50", "p90", "p99", "max"):
        laid.add_column(name, justify="right")
    rows = {
        "time to first token, ms": report.ttft_ms,
        "between tokens (ITL), ms": report.itl_ms,
        "whole answer, ms": report.end_to_end_ms,
        "tokens/s of one answer": report.stream_tokens_per_s,
        "left the client late, ms": report.late_ms,
    }
    for name, seen in rows.items():
        figures = (seen.p50, seen.p90, seen.p99, seen.max)
        laid.add_row(name, *(f"{figure:,.1f}" for figure in figures))
    return laid
