"""`python -m tests.chaos --minutes 20 --jobs 2000 --seed 1`: a long run, with a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Plan, run
from tests.fixtures.models import write_tiny_llama


def main() -> int:
    """Run, print the table, optionally save it as JSON; 1 where an invariant or an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=0, help="at least so many")
    parser.add_argument("--faults", type=int, default=0, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--most-tokens", type=int, default=250, help="of an answer")
    parser.add_argument("--only", default="", help="faults of these kinds, comma-separated")
    parser.add_argument("--save", type=Path)
    chosen = parser.parse_args()
    plan = Plan(
        seed=chosen.seed,
        seconds=chosen.minutes * 60,
        jobs=chosen.jobs,
        faults=chosen.faults,
        clients=chosen.clients,
        workers=chosen.workers,
        tokens=(20, chosen.most_tokens),
        only=tuple(filter(None, chosen.only.split(","))),
    )
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as name:
        folder = Path(name)
        write_tiny_llama(folder / "models" / "tiny-llama")
        verdict = asyncio.run(run(plan, folder, folder / "models"))
    print(verdict.table())  # noqa: T201
    if chosen.save:
        content = {"plan": vars(plan), **verdict.as_dict()}
        chosen.save.write_text(json.dumps(content, indent=2) + "\n")
    for line in verdict.shortfalls():
        print(f"missed: {line}")  # noqa: T201
    return 1 if verdict.faults_found or verdict.shortfalls() else 0


if __name__ == "__main__":
    sys.exit(main())
