"""Computes the printed figures from samples."""

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
    """Percentiles of one quantity, in milliseconds or tokens/s; zeros if nothing was measured."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """The result of a run. Rates count complete answers only, over the run's wall clock.

    `ttft_ms` counts from when a request was due, so an open loop's wait in the client is included;
    `itl_ms` is the time between two pieces of text of one answer; `stream_tokens_per_s` is the rate
    of a single answer after its first piece. `late_ms` is how late requests left the client:
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
    """Return percentiles, interpolated linearly between ranks."""
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
    """Return the report of one run's samples, of which there is at least one."""
    complete = [sample for sample in samples if not sample.error]
    with_text = [sample for sample in complete if sample.pieces_at]
    wall_s = max(sample.ended_at for sample in samples) - min(sample.due_at for sample in samples)
    tokens = sum(sample.completion_tokens for sample in complete)
    gaps = (b - a for sample in with_text for a, b in pairwise(sample.pieces_at))
    return Report(
        requests=len(samples),
        completed=len(complete),
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
        wall_s=wall_s,
        requests_per_s=len(complete) / wall_s,
        prompt_tokens=sum(sample.prompt_tokens for sample in complete),
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s,
        ttft_ms=percentiles(1e3 * (sample.pieces_at[0] - sample.due_at) for sample in with_text),
        itl_ms=percentiles(1e3 * gap for gap in gaps),
        end_to_end_ms=percentiles(1e3 * (sample.ended_at - sample.due_at) for sample in complete),
        stream_tokens_per_s=percentiles(_stream_rates(with_text)),
        late_ms=percentiles(1e3 * (sample.sent_at - sample.due_at) for sample in samples),
    )


def _stream_rates(samples: Sequence[Sample]) -> Iterable[float]:
    for sample in samples:
        span = sample.pieces_at[-1] - sample.pieces_at[0]
        if span > 0 and sample.completion_tokens > 1:
            yield (sample.completion_tokens - 1) / span


def table(report: Report, title: str) -> Table:
    """Return the report as a table for a terminal."""
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
    for name, values in rows.items():
        figures = (values.p50, values.p90, values.p99, values.max)
        laid.add_row(name, *(f"{figure:,.1f}" for figure in figures))
    return laid
