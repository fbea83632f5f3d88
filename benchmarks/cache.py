"""What a fleet finds again of what it has computed: conversations on one worker and on several.

    python -m benchmarks.cache                      1 and 4 workers, 64 conversations of 8 turns
    python -m benchmarks.cache --workers 2 --conversations 16 --save
    python -m benchmarks.cache --only apart --rounds 5      what affinity costs prompts without common heads

Everything but the model is the product's; the model only sleeps, for a known time a step and a
token, so that several workers fit on one machine. "Endless" is what one cache that forgets nothing
would find. Each figure is of runs with affinity and without, on fresh fleets, in turn; of several
rounds it is the median.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx

from benchmarks import conditions, processes, sleeping
from benchmarks.sleeping import BLOCK_TOKENS
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator

FIRST_WORDS: Final = 150
TURN_WORDS: Final = 80
ANSWER_TOKENS: Final = 16
STEP_MS: Final = 10
TOKEN_US: Final = 300
SLOTS: Final = 16
QUEUE: Final = sleeping.queue_of(STEP_MS, TOKEN_US)
MODEL: Final = QUEUE.removesuffix("-cpu")
CONVERSATIONS: Final = "conversations"
APART: Final = "nothing in common"
LOADS: Final = {
    "both": (CONVERSATIONS, APART),
    "conversations": (CONVERSATIONS,),
    "apart": (APART,),
}


@dataclass(frozen=True)
class Turn:
    """One answer: tokens of its prompt, those found in a cache, and its time to first token."""

    prompt_tokens: int
    cached_tokens: int
    ttft_s: float


@dataclass(frozen=True)
class Outcome:
    """All answers of a run. `hits` is the share that was found of what an endless cache would find."""

    workers: int
    affinity: bool
    load: str
    prompt_tokens: int
    prefilled_tokens: int
    hits: float
    ttft_median_ms: float
    ttft_p95_ms: float


def words(source: random.Random, count: int) -> str:
    """Return so many words, which the sleeper's tokenizer takes for tokens of their lengths."""
    return " ".join("x" * source.randint(1, 200) for _ in range(count))


async def answer(client: httpx.AsyncClient, model: str, messages: list[dict[str, str]]) -> Turn:
    """Ask, and append the answer to the messages."""
    body = {
        "model": model, "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    began_s = time.perf_counter()
    first_s, text, usage = 0.0, "", {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                first_s = first_s or (time.perf_counter() if piece else 0.0)
                text += piece
            usage = chunk.get("usage") or usage
    messages.append({"role": "assistant", "content": text})
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Turn(usage["prompt_tokens"], cached, first_s - began_s)


async def converse(
    client: httpx.AsyncClient, options: argparse.Namespace, source: random.Random, *, apart: bool
) -> list[Turn]:
    """Hold one conversation, with pauses; if `apart`, each turn is the first one of a new chat."""
    messages: list[dict[str, str]] = []
    had: list[Turn] = []
    for number in range(options.turns):
        await asyncio.sleep(source.expovariate(1 / options.pause))
        if apart:
            messages.clear()
        content = words(source, FIRST_WORDS if apart or not number else TURN_WORDS)
        messages.append({"role": "user", "content": content})
        had.append(await answer(client, MODEL, messages))
    return had


def endless_hits(turns: list[Turn]) -> int:
    """Return the tokens that an endless cache finds of a conversation's prompts."""
    hits = 0
    for before, turn in itertools.pairwise(turns):
        # The answer's last token is not computed before it is in a prompt.
        known = min(before.prompt_tokens + ANSWER_TOKENS - 1, turn.prompt_tokens - 1)
        hits += known // BLOCK_TOKENS * BLOCK_TOKENS
    return hits


async def run(url: str, options: argparse.Namespace, *, apart: bool) -> list[list[Turn]]:
    """Hold all conversations at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        seeds = random.Random(random.random())  # another text each time: caches know none of it
        return await asyncio.gather(
            *(
                converse(client, options, random.Random(seeds.random()), apart=apart)
                for _ in range(options.conversations)
            )
        )


@contextmanager
def fleet(workers: int, *, affinity: bool) -> Generator[processes.Stack]:
    """Start the stack with so many sleeping workers."""
    wait_ms = Settings().affinity_wait_ms if affinity else 0
    settings = {"PENSTOCK_SLOTS": str(SLOTS), "PENSTOCK_AFFINITY_WAIT_MS": str(wait_ms)}
    with processes.running(api_processes=1, **settings) as stack:
        for number in range(workers):
            stack.start(
                f"worker{number}", "-m", "celery", "-A", "benchmarks.sleeping_worker", "worker",
                "-Q", QUEUE, "-n", f"worker{number}@%h",
            )  # fmt: skip
        metrics = f"{stack.api_url}/metrics"
        stack.wait_until(lambda: _live(httpx.get(metrics, timeout=5.0).text) == workers)
        yield stack


def _live(metrics: str) -> int:
    lines = (line for line in metrics.splitlines() if line.startswith("penstock_workers{"))
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def measure(workers: int, options: argparse.Namespace, *, affinity: bool) -> list[Outcome]:
    """Run conversations, and as many prompts that have nothing in common, on a fresh fleet."""
    outcomes: list[Outcome] = []
    with fleet(workers, affinity=affinity) as stack:
        for load in LOADS[options.only]:
            held = asyncio.run(run(stack.api_url, options, apart=load == APART))
            flat = [turn for conversation in held for turn in conversation]
            prompt, cached = (
                sum(turn.prompt_tokens for turn in flat),
                sum(turn.cached_tokens for turn in flat),
            )
            ttfts = sorted(turn.ttft_s for turn in flat)
            endless = sum(map(endless_hits, held)) if load == CONVERSATIONS else 0
            outcomes.append(
                Outcome(
                    workers=workers,
                    affinity=affinity,
                    load=load,
                    prompt_tokens=prompt,
                    prefilled_tokens=prompt - cached,
                    hits=round(cached / endless, 3) if endless else 1.0,
                    ttft_median_ms=round(statistics.median(ttfts) * 1000, 1),
                    ttft_p95_ms=round(ttfts[int(len(ttfts) * 0.95)] * 1000, 1),
                )
            )
            show(outcomes[-1])
    return outcomes


def show(outcome: Outcome) -> None:
    """Print a run's line."""
    print(
        f"{outcome.workers} workers, affinity {'on ' if outcome.affinity else 'off'}, "
        f"{outcome.load:17}: {outcome.hits:6.1%} of an endless cache, "
        f"{outcome.prefilled_tokens:7} of {outcome.prompt_tokens} tokens prefilled, "
        f"TTFT {outcome.ttft_median_ms:.0f} ms at the median, {outcome.ttft_p95_ms:.0f} at 95 %",
        flush=True,
    )


def ratios(outcomes: list[Outcome], workers: int) -> dict[str, float]:
    """Return what affinity changes on the larger fleet, by the medians of all rounds."""

    def median(load: str, field: str, *, affinity: bool) -> float:
        return statistics.median(
            getattr(o, field)
            for o in outcomes
            if (o.workers, o.affinity, o.load) == (workers, affinity, load)
        )

    def off_by_on(load: str, field: str) -> float:
        return median(load, field, affinity=False) / median(load, field, affinity=True)

    changed: dict[str, float] = {}
    loads = {outcome.load for outcome in outcomes}
    if CONVERSATIONS in loads:
        changed["prefilled_less"] = round(off_by_on(CONVERSATIONS, "prefilled_tokens"), 2)
        changed["ttft_shorter"] = round(off_by_on(CONVERSATIONS, "ttft_median_ms"), 2)
    if APART in loads:
        changed["ttft_nothing_in_common"] = round(1 / off_by_on(APART, "ttft_median_ms"), 3)
        changed["ttft_p95_nothing_in_common"] = round(1 / off_by_on(APART, "ttft_p95_ms"), 3)
    return changed


def main() -> None:
    """Print the figures of a fleet with and without affinity, and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between turns, the mean")
    parser.add_argument("--only", choices=sorted(LOADS), default="both", help="load to run")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    observed = conditions.observe()
    conditions.show(observed)
    outcomes = [] if options.only == "apart" else measure(1, options, affinity=True)
    for number in range(options.rounds):
        for affinity in (False, True) if number % 2 == 0 else (True, False):
            outcomes += measure(options.workers, options, affinity=affinity)
    changed = ratios(outcomes, options.workers)
    print(json.dumps(changed))
    if options.save:
        rows = [asdict(outcome) for outcome in outcomes]
        print(conditions.save("cache", observed, {"outcomes": rows, **changed}))


if __name__ == "__main__":
    main()
