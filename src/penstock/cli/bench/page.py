"""A run, or two servers' runs beside each other, as a page with plots that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from penstock.cli.bench.report import e2el_ms, itls_ms, tpot_ms, ttft_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.cli.bench.load import Sample
    from penstock.cli.bench.report import Percentiles, Report

_COLOURS: Final = ("#1f6f8b", "#c8553d")
_WIDTH: Final = 460
_HEIGHT: Final = 230
_MARGIN: Final = 46
_POINTS: Final = 200
"""Most points of a curve."""

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#8881}"
    "svg{max-width:100%;height:auto}figure{display:inline-block;margin:1rem .5rem 0 0}"
    "figcaption{font-weight:600}@media(prefers-color-scheme:dark){body{background:#151515;color:#eee}"
    "svg text{fill:#eee}}"
)


@dataclass(frozen=True)
class Side:
    """One server: its name, its samples of all rounds, and their report."""

    name: str
    samples: Sequence[Sample]
    report: Report


def page(title: str, sides: Sequence[Side]) -> str:
    """Return the page: the figures, and how waits and paces are distributed."""
    plots = {
        "Time to first token, ms": [
            [ttft_ms(one) for one in side.samples if not one.error and one.pieces_at]
            for side in sides
        ],
        "Between two pieces of text (ITL), ms": [
            [gap for one in side.samples if not one.error for gap in itls_ms(one)] for side in sides
        ],
        "A token after the first (TPOT), ms": [
            [tpot_ms(one) for one in side.samples if not one.error and len(one.pieces_at) > 1]
            for side in sides
        ],
        "Whole answer, ms": [
            [e2el_ms(one) for one in side.samples if not one.error] for side in sides
        ],
    }
    figures = "".join(_figure(name, values) for name, values in plots.items())
    legend = " &nbsp; ".join(
        f'<span style="color:{colour}">&#9632;</span> {escape(side.name)}'
        for side, colour in zip(sides, _COLOURS, strict=False)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{legend}</p>{_table(sides)}"
        f"<p>Share of the requests (up) that took at most so long (right).</p>{figures}</html>\n"
    )


def _table(sides: Sequence[Side]) -> str:
    rows = [("", [side.name for side in sides])]
    reports = [side.report for side in sides]
    rows += [
        ("requests answered", [f"{one.completed} of {one.requests}" for one in reports]),
        ("requests/s", [f"{one.requests_per_s:.2f}" for one in reports]),
        ("output tokens/s", [f"{one.output_tokens_per_s:,.1f}" for one in reports]),
    ]
    if any(one.goodput_per_s is not None for one in reports):
        rows.append(
            ("requests/s within the bounds", [f"{one.goodput_per_s:.2f}" for one in reports])
        )
    measures = {
        "time to first token, ms": [one.ttft_ms for one in reports],
        "between tokens (ITL), ms": [one.itl_ms for one in reports],
        "a token after the first (TPOT), ms": [one.tpot_ms for one in reports],
        "whole answer, ms": [one.end_to_end_ms for one in reports],
    }
    rows += [
        (f"{name}: p50 / p90 / p99", [_three(one) for one in row]) for name, row in measures.items()
    ]
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table>{lines}</table>"


def _three(measured: Percentiles) -> str:
    return f"{measured.p50:,.1f} / {measured.p90:,.1f} / {measured.p99:,.1f}"


def _figure(name: str, values: Sequence[Sequence[float]]) -> str:
    """Return the distributions of the sides as one plot."""
    highest = max((max(side) for side in values if side), default=0.0)
    if highest <= 0:
        return ""
    right, bottom = _WIDTH - 12, _HEIGHT - 30
    frame = f'x="{_MARGIN}" y="8" width="{right - _MARGIN}" height="{bottom - 8}"'
    parts = [f'<rect {frame} fill="none" stroke="#8886"/>']
    for share in (0.0, 0.5, 0.9, 1.0):
        y = bottom - share * (bottom - 8)
        parts.append(
            f'<text x="{_MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>'
        )
    for part in (0.0, 0.5, 1.0):
        x = _MARGIN + part * (right - _MARGIN)
        parts.append(f'<text x="{x:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">'
                     f"{part * highest:,.0f}</text>")  # fmt: skip
    for side, colour in zip(values, _COLOURS, strict=False):
        ordered = sorted(side)
        step = max(1, len(ordered) // _POINTS)
        ranks = [*range(0, len(ordered), step), len(ordered) - 1] if ordered else []
        points = " ".join(
            f"{_MARGIN + ordered[rank] / highest * (right - _MARGIN):.1f},"
            f"{bottom - (rank + 1) / len(ordered) * (bottom - 8):.1f}"
            for rank in ranks
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-size="12">{"".join(parts)}</svg>'
        f"</figure>"
    )
