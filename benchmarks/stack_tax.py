"""What HTTP, Redis and Celery cost: tokens/s through the API over tokens/s of the engine alone.

    python -m benchmarks.stack_tax                       the demo model
    python -m benchmarks.stack_tax --step-ms 20          a model that sleeps 20 ms a step
    python -m benchmarks.stack_tax --queue my-7b-cpu --streams 1 8 32 --save
    python -m benchmarks.stack_tax --step-ms 20 --spread-ms 50      one stream after the other
    python -m benchmarks.stack_tax --queue my-7b-cuda --streams 64 --prompt-tokens 32 256
    python -m benchmarks.stack_tax --queue my-7b-cuda --vllm-python /opt/vllm/bin/python

All sides get the same prompts (token ids), the same number of tokens, and take turns in one run.
The client, the API, Redis and the worker share this machine's cores; the engine alone has them all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks import conditions, processes, sleeping, vllm_contender
from benchmarks.sse_client import Stream, open_stream
from penstock import settings
from penstock.contract.events import Failed, Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.catalogue import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.events import AttemptEvent

DEMO_QUEUE = "bigdl-demo-cpu"
_TEXT = re.compile(rb'"text":"[^"]')
_LONGEST_S = 600.0
_FIRST_ID = 10
"""Special tokens sit below; a prompt of them would be an odd one."""


@dataclass(frozen=True)
class Outcome:
    """One run of some streams: tokens/s of all together, and each stream's first token (ms)."""

    tokens_per_s: float
    ttft_ms: list[float]


@dataclass(frozen=True)
class Comparison:
    """Medians of the rounds. `ratio` is HTTP over engine, the median of the rounds' own ratios.

    Worst first tokens are the medians of each round's latest.
    """

    streams: int
    engine_tokens_per_s: float
    http_tokens_per_s: float
    ratio: float
    engine_ttft_ms: float
    http_ttft_ms: float
    added_ttft_ms: float
    engine_worst_ttft_ms: float
    http_worst_ttft_ms: float
    vllm: dict[str, float] | None = None
    """Medians of vLLM's server in the same rounds; `http_times` is ours through HTTP over its."""


class InProcess:
    """The engine alone; events are timed where the worker would publish them."""

    def __init__(self, make: Callable[[Callable[[list[AttemptEvent]], None]], Engine]) -> None:
        self._firsts: dict[str, float] = {}
        self._open: set[str] = set()
        self._done = threading.Event()
        self._last_s = 0.0
        self._failure = ""
        self._engine = make(self._take)
        self._engine.start()

    def run(self, prompts: list[list[int]], tokens: int, spread_s: float) -> Outcome:
        """Decode all prompts, each submitted `spread_s` after the one before."""
        names = [uuid.uuid4().hex for _ in prompts]
        self._firsts, self._open = {}, set(names)
        self._done.clear()
        began_s = time.perf_counter()
        submitted_s: dict[str, float] = {}
        for place, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
            time.sleep(max(0.0, began_s + place * spread_s - time.perf_counter()))
            submitted_s[name] = time.perf_counter() if spread_s else began_s
            self._engine.submit(SequenceRequest(name, prompt, _sampling(tokens)))
        if not self._done.wait(_LONGEST_S):
            raise SystemExit(f"the engine was not done after {_LONGEST_S:.0f} s")
        if self._failure:
            raise SystemExit(f"the engine failed: {self._failure}")
        rate = tokens * len(prompts) / (self._last_s - began_s)
        return Outcome(rate, [1e3 * (self._firsts[name] - submitted_s[name]) for name in names])

    def stop(self) -> None:
        """End the engine's thread."""
        self._engine.stop()

    def _take(self, events: list[AttemptEvent]) -> None:
        self._last_s = time.perf_counter()
        for event in (one.event for one in events):
            if isinstance(event, Tokens) and event.text:
                self._firsts.setdefault(event.job_id, self._last_s)
            elif isinstance(event, Failed):
                self._failure = event.message
            if isinstance(event, Finished | Failed):
                self._open.discard(event.job_id)
        if not self._open:
            self._done.set()


async def through_http(
    url: str, model: str, prompts: list[list[int]], tokens: int, spread_s: float
) -> Outcome:
    """Ask for the same over HTTP."""
    body = {
        "model": model,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }

    async def ask(place: int, prompt: list[int]) -> Stream:
        await asyncio.sleep(place * spread_s)
        return await open_stream(f"{url}/v1/completions", {**body, "prompt": prompt}, _TEXT)

    began_ns = time.monotonic_ns()
    try:
        async with asyncio.timeout(_LONGEST_S):
            streams = await asyncio.gather(*map(ask, range(len(prompts)), prompts))
            await asyncio.gather(*(stream.ended.wait() for stream in streams))
    except TimeoutError:
        raise SystemExit(
            f"streams had no end after {_LONGEST_S:.0f} s: does the worker run?"
        ) from None
    for stream in streams:
        if stream.error or not stream.matches:
            raise SystemExit(f"a stream failed: {stream.error or 'it brought no text'}")
    took_s = (max(stream.last_at_ns for stream in streams) - began_ns) / 1e9
    ttft_ms = [(stream.first_at_ns - stream.sent_at_ns) / 1e6 for stream in streams]
    return Outcome(tokens * len(prompts) / took_s, ttft_ms)


def _sampling(tokens: int) -> Sampling:
    return Sampling(seed=0, temperature=0.0, max_tokens=tokens, ignore_eos=True)


def draw_prompts(
    source: random.Random, count: int, lengths: tuple[int, int], vocabulary: int
) -> list[list[int]]:
    """Draw prompts that share no prefix, so that no cache helps either side."""
    low, high = min(_FIRST_ID, vocabulary - 1), vocabulary - 1
    return [
        [source.randint(low, high) for _ in range(source.randint(*lengths))] for _ in range(count)
    ]


def _median_ttft(outcomes: list[Outcome]) -> float:
    return statistics.median(ms for outcome in outcomes for ms in outcome.ttft_ms)


def _worst_ttft(outcomes: list[Outcome]) -> float:
    return statistics.median(max(outcome.ttft_ms) for outcome in outcomes)


def compare(
    engine: InProcess,
    sides: dict[str, Callable[[list[list[int]]], Outcome]],
    draw: Callable[[int], list[list[int]]],
    options: argparse.Namespace,
    streams: int,
) -> Comparison:
    """Let all sides take turns, after one round that warms them up; `sides` are `http` and `vllm`."""
    pairs: list[tuple[Outcome, Outcome]] = []
    others: list[Outcome] = []
    for turn in range(options.rounds + 1):
        prompts = draw(streams)
        alone = engine.run(prompts, options.tokens, options.spread_ms / 1e3)
        pair = alone, sides["http"](prompts)
        other = sides["vllm"](prompts) if "vllm" in sides else None
        if turn:
            pairs.append(pair)
            others += [] if other is None else [other]
    engines, served = [one for one, _ in pairs], [two for _, two in pairs]
    ttft_alone, ttft_served = _median_ttft(engines), _median_ttft(served)
    return Comparison(
        streams=streams,
        engine_tokens_per_s=statistics.median(one.tokens_per_s for one in engines),
        http_tokens_per_s=statistics.median(one.tokens_per_s for one in served),
        ratio=statistics.median(two.tokens_per_s / one.tokens_per_s for one, two in pairs),
        engine_ttft_ms=ttft_alone,
        http_ttft_ms=ttft_served,
        added_ttft_ms=ttft_served - ttft_alone,
        engine_worst_ttft_ms=_worst_ttft(engines),
        http_worst_ttft_ms=_worst_ttft(served),
        vllm=_beside(served, others) if others else None,
    )


def _beside(served: list[Outcome], others: list[Outcome]) -> dict[str, float]:
    """VLLM's medians, and ours over its by round."""
    return {
        "tokens_per_s": statistics.median(one.tokens_per_s for one in others),
        "ttft_ms": _median_ttft(others),
        "worst_ttft_ms": _worst_ttft(others),
        "http_times": statistics.median(
            own.tokens_per_s / other.tokens_per_s for own, other in zip(served, others, strict=True)
        ),
    }


def _open_engine(queue: str, slots: int, *, sleeper: bool) -> tuple[InProcess, int]:
    """Load what the worker loads; return it with its vocabulary's size."""
    if sleeper:
        make = InProcess(lambda sink: sleeping.make_engine(queue, slots, sink))
        return make, sleeping.VOCABULARY
    chosen = settings.load()
    loaded = loader.load(
        resolve.resolve(queue, chosen), chosen, slots=slots, progress=lambda _share, _what: None
    )
    card = loaded.card
    engine = InProcess(lambda sink: Engine(loaded.model, loaded.tokenizer, loaded.options, sink))
    return engine, card.vocab_size


def measure(options: argparse.Namespace) -> list[Comparison]:
    """Start the stack, load the model on both sides, compare."""
    sleeper = options.step_ms is not None
    queue = sleeping.queue_of(options.step_ms) if sleeper else options.queue
    slots = max(options.streams)
    application = "benchmarks.sleeping_worker" if sleeper else "workers"
    model = queue.rsplit("-", 1)[0]
    reason = "a sleeping model" if sleeper else vllm_contender.missing(options)
    spread_s = options.spread_ms / 1e3

    def asker(url: str) -> Callable[[list[list[int]]], Outcome]:
        return lambda prompts: asyncio.run(
            through_http(url, model, prompts, options.tokens, spread_s)
        )

    source, sides = random.Random(0), {}
    with contextlib.ExitStack() as running:
        if reason is None:  # before ours take the memory that is left
            folder = resolve.resolve(queue, settings.load()).path
            url = running.enter_context(vllm_contender.server(options, folder, model, slots))
            sides["vllm"] = asker(url)
        else:
            print(f"vLLM is left out: {reason}")
        engine, vocabulary = _open_engine(queue, slots, sleeper=sleeper)
        running.callback(engine.stop)
        stack = running.enter_context(
            processes.running(options.api_processes, PENSTOCK_SLOTS=str(slots))
        )
        stack.start_worker(application, queue)
        sides["http"] = asker(stack.api_url)

        def draw(count: int) -> list[list[int]]:
            shortest, longest = options.prompt_tokens[0], options.prompt_tokens[-1]
            return draw_prompts(source, count, (shortest, longest), vocabulary)

        return [compare(engine, sides, draw, options, count) for count in options.streams]


def main() -> None:
    parser = argparse.ArgumentParser(description="tokens/s through HTTP over the engine's own")
    parser.add_argument("--queue", default=DEMO_QUEUE)
    parser.add_argument("--step-ms", type=int, help="a sleeping model in place of --queue's")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--tokens", type=int, default=128, help="tokens of an answer")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        nargs="+",
        default=[16],
        help="so many, or from the least to the most",
    )
    parser.add_argument("--spread-ms", type=float, default=0.0, help="between two arrivals")
    parser.add_argument("--api-processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    vllm_contender.add_options(parser)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    what = options.queue if options.step_ms is None else f"a model of {options.step_ms} ms steps"
    print(f"{what}: {options.tokens} tokens an answer, median of {options.rounds} rounds\n")
    print(
        "streams   engine tok/s     HTTP tok/s   ratio   TTFT engine / HTTP / added, ms;  "
        "worst engine / HTTP"
    )
    results = measure(options)
    for one in results:
        print(
            f"{one.streams:7d} {one.engine_tokens_per_s:14.1f} {one.http_tokens_per_s:14.1f} "
            f"{one.ratio:7.3f}   {one.engine_ttft_ms:.1f} / {one.http_ttft_ms:.1f} / "
            f"{one.added_ttft_ms:.1f};  "
            f"{one.engine_worst_ttft_ms:.1f} / {one.http_worst_ttft_ms:.1f}"
        )
        if one.vllm is not None:
            print("   vLLM  ", {name: round(figure, 3) for name, figure in one.vllm.items()})
    if options.save:
        name = "stack-tax" if options.step_ms is None else f"stack-tax-{options.step_ms}ms"
        name += "-spread" if options.spread_ms else ""
        rows = [asdict(one) for one in results]
        print(conditions.save(name, seen, {"options": vars(options), "results": rows}))


if __name__ == "__main__":
    main()
