"""Whether a token and a job cost one Redis the same whatever the fleet's size and the backlog's.

    python -m benchmarks.scale fleet                  1 to 500 workers: idle, saying tokens, short jobs
    python -m benchmarks.scale backlog                0 to 100,000 waiting jobs: every call's cost
    python -m benchmarks.scale api                    what an API process pays to know and show them
    python -m benchmarks.scale fleet --sizes 1 50 --seconds 5 --save

`fleet` and the drains of `backlog` run real stations, pools and kombu consumers, many a process
(`benchmarks.scale_fleet`), with an engine that sleeps; Redis is append-only, as in production.
Everything shares this machine: the load takes most of it, so latencies are upper bounds. Redis's
CPU is its own account (`INFO cpu`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from benchmarks import conditions, scale_api, scale_backlog, scale_growth, scale_store

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 10, 50, 100, 250, 500)
LENGTHS = (0, 1_000, 10_000, 100_000)
KNOWN = ((1, 1), (10, 2), (100, 20), (500, 1), (500, 100))
_LONG_HEARTBEAT_S = 600


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Any]) -> str:
    """Return a Markdown table: a row a measure, a column a level."""
    lines: list[str] = []
    names = [field.name for field in fields(rows[0])]
    for number, name in enumerate(names):
        values = [getattr(row, name) for row in rows]
        if isinstance(values[0], dict):
            for call in values[0]:
                cells = " | ".join(_cell(value[call]) for value in values)
                lines.append(f"| {name}: {call} | {cells} |")
            continue
        lines.append(f"| {name} | {' | '.join(map(_cell, values))} |")
        if not number:
            lines.append("|---" * (len(rows) + 1) + "|")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> Sequence[Any]:
    """Measure one sweep against a Redis of its own."""
    changes = {"heartbeat_s": _LONG_HEARTBEAT_S} if options.sweep == "api" else {}
    with scale_store.running(**changes) as store:
        match options.sweep:
            case "fleet":
                sizes = options.sizes or SIZES
                return asyncio.run(scale_growth.sweep(store, sizes, options.seconds))
            case "backlog":
                lengths = options.sizes or LENGTHS
                return asyncio.run(scale_backlog.sweep(store, lengths, options.seconds))
            case _:
                return asyncio.run(scale_api.sweep(store, KNOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("sweep", choices=("fleet", "backlog", "api"))
    parser.add_argument("--sizes", type=int, nargs="+", help="workers, or waiting jobs")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each window")
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = conditions.observe()
    conditions.show(found)
    levels = run(options)
    print(f"\n{table(levels)}")
    if options.save:
        result = {"levels": [asdict(level) for level in levels]}
        print(conditions.save(f"scale-{options.sweep}", found, result))


if __name__ == "__main__":
    main()
