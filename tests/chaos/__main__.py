"""`python -m tests.chaos --minutes 20 --jobs 2000 --seed 1`: a long run, with a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.fleet import MODELS
from tests.chaos.protocols import BY_NAME
from tests.chaos.run import Plan, run
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.chaos.verdict import Verdict


def main() -> int:
    """Run, print the table, optionally save it as JSON; 1 if an invariant or an aim was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=0, help="at least so many")
    parser.add_argument("--faults", type=int, default=0, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--most-tokens", type=int, default=250, help="of an answer")
    parser.add_argument("--protocols", default="", help=f"of {', '.join(BY_NAME)}; all by default")
    parser.add_argument("--only", default="", help="faults of these kinds, comma-separated")
    parser.add_argument("--load", type=float, default=1.0, help="share of time that clients ask in")
    parser.add_argument("--fault-pause", type=float, default=2.0, help="most seconds between two")
    parser.add_argument(
        "--spare-first", action="store_true", help="one worker and one API process live throughout"
    )
    parser.add_argument(
        "--journal-ttl", type=int, default=0, help="seconds; by default longer than the run"
    )
    parser.add_argument("--no-networks", action="store_true", help="no `ip netns`, no partitions")
    parser.add_argument("--grouped", action="store_true", help="hit the Redis of a group")
    parser.add_argument(
        "--on-demand", action="store_true", help="two models, and room for one in a worker"
    )
    parser.add_argument(
        "--kv-store", action="store_true", help="workers keep and exchange blocks of KV cache"
    )
    parser.add_argument("--keep", type=Path, help="folder for the processes' logs")
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
        protocols=tuple(filter(None, chosen.protocols.split(","))) or tuple(BY_NAME),
        only=tuple(filter(None, chosen.only.split(","))),
        load=chosen.load,
        fault_pause_s=(0.3, chosen.fault_pause),
        spare_first=chosen.spare_first,
        journal_ttl_s=chosen.journal_ttl,
        has_networks=not chosen.no_networks,
        is_grouped=chosen.grouped,
        is_on_demand=chosen.on_demand,
        has_stores=chosen.kv_store,
    )
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(MODELS):
            write_tiny_llama(folder / "models" / name, seed=seed)
        verdict = asyncio.run(_until_stopped(run(plan, folder, folder / "models", _tell)))
    print(verdict.table())  # noqa: T201
    if chosen.save:
        content = {"plan": vars(plan), **verdict.as_dict()}
        chosen.save.write_text(json.dumps(content, indent=2) + "\n")
    for line in verdict.shortfalls():
        print(f"missed: {line}")  # noqa: T201
    return 1 if verdict.faults_found or verdict.shortfalls() else 0


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201


async def _until_stopped(running: Coroutine[None, None, Verdict]) -> Verdict:
    """Await a run; SIGTERM ends it with all that it has started."""
    task = asyncio.ensure_future(running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
