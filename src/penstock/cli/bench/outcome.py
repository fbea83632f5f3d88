"""What a run is shown and written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.cli.bench.page import page
from penstock.cli.bench.recognised import as_vllm
from penstock.cli.bench.report import table
from penstock.cli.console import out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.cli.bench.page import Side
    from penstock.cli.bench.workload import Load


@dataclass(frozen=True)
class Outcome:
    """One server's figures, or those of two with the same load, and the files that they go to."""

    loads: Sequence[Load]
    sides: Sequence[Side]
    json: Path | None
    page: Path | None


def show(outcome: Outcome) -> None:
    """Print the figures, and write the files."""
    if outcome.page is not None:
        title = f"{outcome.loads[0].model}: {_how(outcome.loads[0])}"
        outcome.page.write_text(page(title, outcome.sides), encoding="utf-8")
    written = msgspec.json.format(msgspec.json.encode(_document(outcome), enc_hook=str)).decode()
    if outcome.json is not None and str(outcome.json) == "-":
        out.file.write(f"{written}\n")
        return
    if outcome.json is not None:
        outcome.json.write_text(f"{written}\n", encoding="utf-8")
    for load, side in zip(outcome.loads, outcome.sides, strict=True):
        _print(load, side, named=len(outcome.sides) > 1)
    if len(outcome.sides) > 1:
        _compare(*outcome.sides)


def _document(outcome: Outcome) -> dict[str, Any]:
    """The first server's figures under both sets of names, the second's beside them."""
    first, *rest = (
        {
            "load": {name: part for name, part in vars(load).items() if name != "key"},
            "report": side.report,
            **as_vllm(load, side.report),
        }
        for load, side in zip(outcome.loads, outcome.sides, strict=True)
    )
    return {**first, "against": rest[0]} if rest else first


def _how(load: Load) -> str:
    unit = "tasks" if load.shape == "agents" else "requests"
    sent = f"{load.rate:g} {unit}/s" if load.rate else f"{load.concurrency} clients"
    what = "" if load.shape == "words" else f", {load.shape}"
    return sent + (f", {load.dataset.name}" if load.dataset else what)


def _print(load: Load, side: Side, *, named: bool) -> None:
    report = side.report
    where = f" at {side.name}" if named else ""
    out.print(table(report, f"{load.model}{where}, {_how(load)}"))
    out.print(
        f"{report.completed} of {report.requests} answered in {report.wall_s:.1f} s: "
        f"{report.output_tokens_per_s:,.1f} output tokens/s, "
        f"{report.requests_per_s:.2f} requests/s, {report.prompt_tokens} prompt tokens"
    )
    if report.goodput_per_s is not None:
        out.print(f"{report.goodput_per_s:.2f} requests/s were answered within the bounds")
    for what, count in report.errors.items():
        out.print(f"[red]{count} x {what}[/]")


def _compare(first: Side, second: Side) -> None:
    """Print how many times the second server's figures the first one's are."""
    pairs = {
        "output tokens/s": (first.report.output_tokens_per_s, second.report.output_tokens_per_s),
        "median time to first token": (first.report.ttft_ms.p50, second.report.ttft_ms.p50),
        "p99 time to first token": (first.report.ttft_ms.p99, second.report.ttft_ms.p99),
        "median TPOT": (first.report.tpot_ms.p50, second.report.tpot_ms.p50),
        "p99 ITL": (first.report.itl_ms.p99, second.report.itl_ms.p99),
    }
    out.print(f"{first.name} over {second.name}:")
    for name, (one, other) in pairs.items():
        out.print(f"  {name}: {one / other:.3f}" if other else f"  {name}: nothing to compare")
