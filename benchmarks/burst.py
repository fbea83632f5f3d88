"""What requests that arrive in the same instant cost: CPU a request, and when the first tokens come.

    python -m benchmarks.burst                      32 and 64 at once, a model of 20 ms steps
    python -m benchmarks.burst --streams 64 --step-ms 8 --rounds 40 --save

Each burst is sent in one go, over connections that are opened for it. "Added" is the time beyond what
the engine alone needs for the same burst.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import conditions, processes, sleeping
from benchmarks.stack_tax import InProcess, Outcome, draw_prompts, through_http

if TYPE_CHECKING:
    from penstock.cli.fleet.child import Child

TOKENS: Final = 2
PAUSE_S: Final = 0.3
"""Between two bursts: what the last one left behind is done by then."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Burst:
    """All bursts of one size. Times in ms; `last` is the median of the bursts' latest first tokens."""

    streams: int
    engine_ttft_ms: float
    http_ttft_ms: float
    added_ttft_ms: float
    engine_last_ms: float
    http_last_ms: float
    added_last_ms: float
    api_cpu_ms: float
    worker_cpu_ms: float
    redis_cpu_ms: float


def cpu_s(child: Child) -> float:
    """Return the processor time that a process has used, its threads' together."""
    assert child.process is not None
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _median(outcomes: list[Outcome]) -> float:
    return statistics.median(ms for outcome in outcomes for ms in outcome.ttft_ms)


def _last(outcomes: list[Outcome]) -> float:
    return statistics.median(max(outcome.ttft_ms) for outcome in outcomes)


def measure(options: argparse.Namespace) -> list[Burst]:
    """Start the stack, then send bursts to it and to the engine alone in turn."""
    queue = sleeping.queue_of(options.step_ms)
    model = queue.rsplit("-", 1)[0]
    slots = max(options.streams)
    engine = InProcess(lambda sink: sleeping.make_engine(queue, slots, sink))
    source = random.Random(0)
    try:
        with processes.running(options.api_processes, PENSTOCK_SLOTS=str(slots)) as stack:
            worker = stack.start_worker("benchmarks.sleeping_worker", queue)
            seen = (stack.api, worker, stack.redis)
            found: list[Burst] = []
            for count in options.streams:
                alone: list[Outcome] = []
                served: list[Outcome] = []
                spent = [0.0] * len(seen)
                for turn in range(options.rounds + 2):
                    prompts = draw_prompts(source, count, (16, 16), sleeping.VOCABULARY)
                    one = engine.run(prompts, TOKENS, 0.0)
                    before = [cpu_s(child) for child in seen]
                    two = asyncio.run(through_http(stack.api_url, model, prompts, TOKENS, 0.0))
                    time.sleep(PAUSE_S)
                    if turn < 2:  # the first ones open connections and load scripts
                        continue
                    alone.append(one)
                    served.append(two)
                    for place, child in enumerate(seen):
                        spent[place] += cpu_s(child) - before[place]
                per_request = [1e3 * one / (count * options.rounds) for one in spent]
                found.append(
                    Burst(
                        count,
                        *(_median(alone), _median(served), _median(served) - _median(alone)),
                        *(_last(alone), _last(served), _last(served) - _last(alone)),
                        *per_request,
                    )
                )
            return found
    finally:
        engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="requests in the same instant")
    parser.add_argument("--streams", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--step-ms", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--api-processes", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    print(
        f"steps of {options.step_ms} ms, medians of {options.rounds} bursts; CPU in ms a request\n"
    )
    print("streams   TTFT engine / HTTP / added   last engine / HTTP / added    API  worker  Redis")
    results = measure(options)
    for one in results:
        print(
            f"{one.streams:7d}   {one.engine_ttft_ms:6.1f} / {one.http_ttft_ms:.1f} / "
            f"{one.added_ttft_ms:.1f}   {one.engine_last_ms:14.1f} / {one.http_last_ms:.1f} / "
            f"{one.added_last_ms:.1f}   {one.api_cpu_ms:6.2f} {one.worker_cpu_ms:6.2f} "
            f"{one.redis_cpu_ms:6.2f}"
        )
    if options.save:
        rows = [asdict(one) for one in results]
        print(conditions.save("burst", seen, {"options": vars(options), "results": rows}))


if __name__ == "__main__":
    main()
