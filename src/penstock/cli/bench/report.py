"""Computes the printed figures from samples."""

from __future__ import annotations

import statistics
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
    mean: float = 0.0
    std: float = 0.0


BOUNDED = ("ttft", "tpot", "itl", "e2el")
"""What a good answer may have a bound for."""


class Bounds(msgspec.Struct, frozen=True):
    """What a good answer keeps to, in milliseconds; None for no bound.

    `tpot_ms` is the mean time of a token after the first, `itl_ms` the longest between two pieces.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    itl_ms: float | None = None
    e2el_ms: float | None = None

    def hold_for(self, sample: Sample) -> bool:
        """Return whether an answer is whole and within all bounds."""
        if sample.error or not sample.pieces_at:
            return False
        taken = {
            "ttft_ms": ttft_ms(sample),
            "tpot_ms": tpot_ms(sample),
            "itl_ms": max(itls_ms(sample), default=0.0),
            "e2el_ms": e2el_ms(sample),
        }
        bounds = {name: getattr(self, name) for name in taken}
        return all(taken[name] <= most for name, most in bounds.items() if most is not None)


class Report(msgspec.Struct, frozen=True):
    """The result of a run. Rates count complete answers only, over the run's wall clock.

    `ttft_ms` counts from when a request was due, so an open loop's wait in the client is included;
    `itl_ms` is the time between two pieces of text of one answer; `stream_tokens_per_s` is the rate
    of a single answer after its first piece. `late_ms` is how late requests left the client:
    large values mean that this client, not the server, was the limit. `tpot_ms` is an answer's time
    after the first piece over its tokens. `goodput_per_s` counts the requests whose answers kept to
    the bounds; None without bounds.
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
    tpot_ms: Percentiles = Percentiles()
    goodput_per_s: float | None = None


def ttft_ms(sample: Sample) -> float:
    """Return the time from when a request was due to its first text."""
    return 1e3 * (sample.pieces_at[0] - sample.due_at)


def itls_ms(sample: Sample) -> list[float]:
    """Return the times between the pieces of an answer."""
    return [1e3 * (b - a) for a, b in pairwise(sample.pieces_at)]


def tpot_ms(sample: Sample) -> float:
    """Return the mean time of a token after the first piece; 0 for an answer of one."""
    span_ms = 1e3 * (sample.pieces_at[-1] - sample.pieces_at[0])
    return span_ms / max(1, sample.completion_tokens - 1)


def e2el_ms(sample: Sample) -> float:
    """Return the time from when a request was due to the end of its answer."""
    return 1e3 * (sample.ended_at - sample.due_at)


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

    return Percentiles(
        at(0.5),
        at(0.9),
        at(0.99),
        ordered[-1],
        statistics.fmean(ordered),
        statistics.pstdev(ordered),
    )


def summarise(samples: Sequence[Sample], bounds: Bounds | None = None) -> Report:
    """Return the report of one run's samples, of which there is at least one."""
    return together([samples], bounds)


def together(runs: Sequence[Sequence[Sample]], bounds: Bounds | None = None) -> Report:
    """Return the report of runs at different times, of which each has at least one sample."""
    samples = [sample for run in runs for sample in run]
    complete = [sample for sample in samples if not sample.error]
    with_text = [sample for sample in complete if sample.pieces_at]
    wall_s = sum(max(one.ended_at for one in run) - min(one.due_at for one in run) for run in runs)
    tokens = sum(sample.completion_tokens for sample in complete)
    return Report(
        requests=len(samples),
        completed=len(complete),
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
        wall_s=wall_s,
        requests_per_s=len(complete) / wall_s,
        prompt_tokens=sum(sample.prompt_tokens for sample in complete),
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s,
        ttft_ms=percentiles(map(ttft_ms, with_text)),
        itl_ms=percentiles(gap for sample in with_text for gap in itls_ms(sample)),
        end_to_end_ms=percentiles(map(e2el_ms, complete)),
        stream_tokens_per_s=percentiles(_stream_rates(with_text)),
        late_ms=percentiles(1e3 * (sample.sent_at - sample.due_at) for sample in samples),
        tpot_ms=percentiles(tpot_ms(one) for one in with_text if one.completion_tokens > 1),
        goodput_per_s=None if bounds is None else sum(map(bounds.hold_for, samples)) / wall_s,
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
        "after the first (TPOT), ms": report.tpot_ms,
        "whole answer, ms": report.end_to_end_ms,
        "tokens/s of one answer": report.stream_tokens_per_s,
        "left the client late, ms": report.late_ms,
    }
    for name, values in rows.items():
        figures = (values.p50, values.p90, values.p99, values.max)
        laid.add_row(name, *(f"{figure:,.1f}" for figure in figures))
    return laid
