"""What forms cost the others: gaps between the tokens of plain streams beside constrained ones.

    python -m benchmarks.structure
    python -m benchmarks.structure --queue my-7b-cpu --save

`--streams` plain streams run beside as many companions, which are plain in one turn and bound to a
JSON schema in the next, so both meet the same batch. Printed are medians over the rounds: the mean
gap of the plain streams and its 99th percentile, what the companions themselves bring a second, the
worker's processor time a token (which other work on the machine disturbs least), and the ratios to
the turns with plain companions.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks import conditions, processes
from benchmarks.sse_client import Stream, ignore, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT: Final = re.compile(rb'"text":"[^"]')
WORDS: Final = (
    "water",
    "flows",
    "through",
    "the",
    "penstock",
    "to",
    "a",
    "turbine",
    "and",
    "waits",
)
SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "minItems": 200,  # longer than any answer here
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["river", "pipe", "turbine", "queue"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 9999},
        },
        "required": ["name", "kind", "size"],
        "additionalProperties": False,
    },
}
COMPANIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"ignore_eos": True},
    "schema": {"guided_json": SCHEMA},
}


@dataclass(frozen=True)
class Turn:
    """One turn: the plain streams' gaps, all companions' rate, the processor's time a token."""

    mean_ms: float
    p99_ms: float
    companions_per_s: float
    cpu_ms: float


async def take_turn(
    url: str, body: dict[str, Any], companion: dict[str, Any], count: int, worker: psutil.Process
) -> Turn:
    """Run `count` plain streams and as many companions, all begun at once."""
    times: list[list[int]] = [[] for _ in range(count)]

    def note(place: int) -> Callable[[re.Match[bytes], int], None]:
        return lambda _match, now_ns: times[place].append(now_ns)

    def ask(more: dict[str, Any], on_match: Callable[..., None]) -> Any:
        prompt = " ".join(random.choices(WORDS, k=12))
        return open_stream(url, {**body, **more, "prompt": prompt}, TEXT, on_match)

    used_s = sum(worker.cpu_times()[:2])
    others = [ask(companion, ignore) for _ in range(count)]
    plain = [ask(COMPANIONS["plain"], note(place)) for place in range(count)]
    streams: list[Stream] = await asyncio.gather(*others, *plain)
    await asyncio.gather(*(stream.ended.wait() for stream in streams))
    used_s = sum(worker.cpu_times()[:2]) - used_s
    for stream in streams:
        if stream.error or not stream.matches:
            raise SystemExit(f"a stream failed: {stream.error or 'it brought no text'}")
    gaps = sorted((late - soon) / 1e6 for one in times for soon, late in itertools.pairwise(one))
    rates = [
        one.matches * 1e9 / max(1, one.last_at_ns - one.first_at_ns) for one in streams[:count]
    ]
    tokens = sum(stream.matches for stream in streams)
    p99_ms = gaps[int(len(gaps) * 0.99)]
    return Turn(statistics.fmean(gaps), p99_ms, sum(rates), used_s * 1e3 / tokens)


def measure(
    url: str, model: str, worker: psutil.Process, options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Take turns, after one of each that warms up."""
    body = {"model": model, "max_tokens": options.tokens, "temperature": 0, "stream": True}
    turns: dict[str, list[Turn]] = {name: [] for name in COMPANIONS}
    for number in range(options.rounds + 1):
        for name, companion in COMPANIONS.items():
            asked = take_turn(f"{url}/v1/completions", body, companion, options.streams, worker)
            turn = asyncio.run(asked)
            if number:
                turns[name].append(turn)
            time.sleep(0.1)
    return turns


def ratio(turns: dict[str, list[Turn]], field: str) -> float:
    """Return the median over the rounds of a field beside forms over that beside plain streams."""
    pairs = zip(turns["schema"], turns["plain"], strict=True)
    return statistics.median(getattr(one, field) / getattr(two, field) for one, two in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description="plain streams beside schema-constrained ones")
    parser.add_argument("--queue", default="bigdl-demo-cpu")
    parser.add_argument("--streams", type=int, default=8, help="plain ones, and companions")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    slots = str(2 * options.streams)
    # Drafts would be taken more often in forms than in plain text: this is not about them.
    with processes.running(PENSTOCK_SLOTS=slots, PENSTOCK_SPECULATION="off") as stack:
        child = stack.start_worker("workers", options.queue)
        assert child.process is not None
        model, worker = options.queue.rsplit("-", 1)[0], psutil.Process(child.process.pid)
        turns = measure(stack.api_url, model, worker, options)
    print(f"{options.queue}: {options.streams} plain streams and as many companions")
    for name, rows in turns.items():
        medians = {
            field: statistics.median(asdict(one)[field] for one in rows)
            for field in asdict(rows[0])
        }
        print(
            f"beside {name:6}: gap {medians['mean_ms']:.2f} ms, p99 {medians['p99_ms']:.2f} ms; "
            f"the companions {medians['companions_per_s']:.0f} tokens/s; "
            f"{medians['cpu_ms']:.2f} ms of the processor a token"
        )
    ratios = {field: ratio(turns, field) for field in asdict(turns["plain"][0])}
    print(
        f"schema over plain: gap {ratios['mean_ms']:.3f}, p99 {ratios['p99_ms']:.3f}, "
        f"the companions' tokens/s {ratios['companions_per_s']:.3f}, "
        f"the processor {ratios['cpu_ms']:.3f}"
    )
    if options.save:
        rounds = {name: [asdict(one) for one in rows] for name, rows in turns.items()}
        result = {"options": vars(options), "turns": rounds, "ratios": ratios}
        print(conditions.save("structure", seen, result))


if __name__ == "__main__":
    main()
