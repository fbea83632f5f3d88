"""How many streams at 20 tokens/s one API process relays before its clients notice.

    python -m benchmarks.relay
    python -m benchmarks.relay --streams 200 400 800 --seconds 10 --save

Real Redis, one real `uvicorn api:app`, a producer process that claims the jobs and appends tokens as
workers do (one `WorkerQueue.append` a step of 50 ms for up to 64 streams), and a client process with
all the streams. Each token carries the time at which its append began, so the delay counts Redis,
pub/sub, the API and the way to the client. On a machine with two cores or more the API has one for
itself, everything else the others (`--no-pin` leaves it to the system).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import psutil
import uvloop

from benchmarks import conditions, processes, relay_producer
from benchmarks.sse_client import Stream, open_stream

if TYPE_CHECKING:
    from benchmarks.processes import Stack

_STAMP = re.compile(rb"@(\d+)@")
_LIMIT_MS = 50.0
_SETTLE_S = 2.0
_OPENED_A_SECOND = 200
_ALL_TALK_S = 30.0
_LONGEST_RUN_TOKENS = 4_000


@dataclass(frozen=True)
class Level:
    """What was seen at one number of streams. CPU is in shares of one core.

    `producer_late_ms` is the 99th percentile of how late steps began; if it comes near the
    delays, the load and not the API was the limit.
    """

    streams: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    tokens_per_s: float
    expected_per_s: float
    api_cpu: float
    redis_cpu: float
    producer_late_ms: float


@dataclass
class Window:
    """Delays of the tokens that came while it was open, in ns."""

    open: bool = False
    delays_ns: list[int] = field(default_factory=list[int])

    def note(self, match: re.Match[bytes], now_ns: int) -> None:
        """Take one token's stamp."""
        if self.open:
            self.delays_ns.append(now_ns - int(match[1]))


async def sweep(stack: Stack, options: argparse.Namespace) -> list[Level]:
    """Add streams level by level, until the delay is over the limit or a stream breaks."""
    window = Window()
    streams: list[Stream] = []
    levels: list[Level] = []
    try:
        for count in sorted(options.streams):
            await _open_until(streams, count, stack.api_url, window)
            await asyncio.sleep(_SETTLE_S)
            levels.append(await _measure(stack, window, streams, options.seconds))
            _print_level(levels[-1])
            if levels[-1].p99_ms > _LIMIT_MS and not options.all:
                break
    finally:
        for stream in streams:
            stream.close()
        await asyncio.gather(*(stream.ended.wait() for stream in streams))
    return levels


async def _open_until(streams: list[Stream], count: int, url: str, window: Window) -> None:
    body = {
        "model": relay_producer.MODEL,
        "prompt": [1, 2, 3],
        "max_tokens": _LONGEST_RUN_TOKENS,
        "stream": True,
    }
    while len(streams) < count:
        streams.append(await open_stream(f"{url}/v1/completions", body, _STAMP, window.note))
        await asyncio.sleep(1 / _OPENED_A_SECOND)
    end = time.monotonic() + _ALL_TALK_S
    while not all(stream.matches for stream in streams):
        if broken := [stream.error for stream in streams if stream.ended.is_set()]:
            raise SystemExit(f"{len(broken)} streams broke: {broken[0]}")
        if time.monotonic() > end:
            silent = sum(not stream.matches for stream in streams)
            raise SystemExit(f"{silent} of {count} streams got no token in {_ALL_TALK_S:.0f} s")
        await asyncio.sleep(0.05)


async def _measure(stack: Stack, window: Window, streams: list[Stream], seconds: float) -> Level:
    assert stack.api.process is not None
    assert stack.redis.process is not None
    watched = [psutil.Process(one.process.pid) for one in (stack.api, stack.redis) if one.process]
    before = [sum(one.cpu_times()[:2]) for one in watched]
    window.delays_ns.clear()
    began_s = time.monotonic()
    window.open = True
    await asyncio.sleep(seconds)
    window.open = False
    took_s = time.monotonic() - began_s
    api_s, redis_s = (
        sum(one.cpu_times()[:2]) - spent for one, spent in zip(watched, before, strict=True)
    )
    if broken := [stream.error for stream in streams if stream.ended.is_set()]:
        raise SystemExit(f"{len(broken)} streams broke: {broken[0]}")
    delays_ms = sorted(delay / 1e6 for delay in window.delays_ns)
    return Level(
        streams=len(streams),
        p50_ms=_at(delays_ms, 0.5),
        p99_ms=_at(delays_ms, 0.99),
        max_ms=delays_ms[-1],
        tokens_per_s=len(delays_ms) / took_s,
        expected_per_s=len(streams) * 1000 / relay_producer.STEP_MS,
        api_cpu=api_s / took_s,
        redis_cpu=redis_s / took_s,
        producer_late_ms=relay_producer.read_lateness(stack.redis_url),
    )


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _print_level(one: Level) -> None:
    print(
        f"{one.streams:7d} {one.p50_ms:8.1f} {one.p99_ms:8.1f} {one.max_ms:8.1f} "
        f"{one.tokens_per_s:9.0f} of {one.expected_per_s:<6.0f} {one.api_cpu:7.0%} "
        f"{one.redis_cpu:7.0%} {one.producer_late_ms:8.1f}",
        flush=True,
    )


def _pin(stack: Stack, producer_pid: int) -> None:
    """Give the API the first core that we may use, and everything else the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or stack.api.process is None or stack.redis.process is None:
        return
    os.sched_setaffinity(stack.api.process.pid, cores[:1])
    for pid in (0, stack.redis.process.pid, producer_pid):
        os.sched_setaffinity(pid, cores[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description="streams at 20 tokens/s one API process relays")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[100, 200, 400, 600, 800, 1000, 1200, 1600]
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="measured at each level")
    parser.add_argument("--all", action="store_true", help="go on past the limit")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    print("\nstreams   p50 ms   p99 ms   max ms   tokens/s          API CPU  Redis  load late ms")
    with processes.running(PENSTOCK_MAX_WAITING_JOBS="100000") as stack:
        producer = stack.start("producer", "-m", "benchmarks.relay_producer")
        stack.wait_until(lambda: relay_producer.MODEL in stack.models())
        if options.pin and producer.process is not None:
            _pin(stack, producer.process.pid)
        levels = uvloop.run(sweep(stack, options))
    within = [one.streams for one in levels if one.p99_ms <= _LIMIT_MS]
    print(f"\n{max(within, default=0)} streams with a p99 of {_LIMIT_MS:.0f} ms and less")
    if options.save:
        rows = [asdict(one) for one in levels]
        print(conditions.save("relay", seen, {"options": vars(options), "results": rows}))


if __name__ == "__main__":
    main()
