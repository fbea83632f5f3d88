"""Sends chat completions and records when each piece of an answer arrived.

Open loop: requests are sent at the times of a Poisson process, whether or not earlier ones were
answered, as independent users do; a slow server then shows as a growing wait. Closed loop: a fixed
number of clients, each sending its next request when it has its answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
from httpx_sse import EventSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WORDS = ("river", "valve", "water", "field", "grain", "stone", "north", "light", "paper", "engine")
_DONE = "[DONE]"


@dataclass(frozen=True)
class Span:
    """A range that lengths are drawn from, both ends included."""

    low: int
    high: int

    def draw(self, source: random.Random) -> int:
        """Return a random length."""
        return source.randint(self.low, self.high)


@dataclass(frozen=True)
class Load:
    """What to send. Exactly one of `rate` (requests/s) and `concurrency` is set."""

    url: str
    key: str
    model: str
    requests: int
    duration_s: float
    rate: float | None
    concurrency: int | None
    prompt_words: Span
    answer_tokens: Span
    seed: int = 0
    timeout_s: float = 600.0


@dataclass
class Sample:
    """One request. Times are seconds on one clock; `due_at` is when it should have been sent.

    `pieces_at` are the arrival times of the pieces that carried text. `error` is empty if the
    answer is complete.
    """

    due_at: float
    sent_at: float = 0.0
    ended_at: float = 0.0
    pieces_at: list[float] = field(default_factory=list[float])
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass
class _Sender:
    """Sends the load's requests with one client and collects the samples."""

    load: Load
    client: httpx.AsyncClient
    progress: Callable[[Sample], None]
    samples: list[Sample] = field(default_factory=list[Sample])

    async def send(self, body: dict[str, Any], due_at: float) -> None:
        """Send one request; a failure is recorded in its sample."""
        sample = Sample(due_at=due_at, sent_at=time.perf_counter())
        try:
            await self._stream(body, sample)
        except httpx.HTTPError as error:
            sample.error = type(error).__name__
        sample.ended_at = time.perf_counter()
        self.samples.append(sample)
        self.progress(sample)

    async def _stream(self, body: dict[str, Any], sample: Sample) -> None:
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if not answer.is_success:
                await answer.aread()
                sample.error = f"HTTP {answer.status_code}"
                return
            async with aclosing(EventSource(answer).aiter_sse()) as events:
                async for event in events:
                    if event.data == _DONE:
                        return
                    _read_frame(msgspec.json.decode(event.data), sample)
                    if sample.error:
                        return
        sample.error = "stream broke off"


def _read_frame(frame: dict[str, Any], sample: Sample) -> None:
    if error := frame.get("error"):
        sample.error = str(error.get("code") or error.get("type") or "error in stream")
        return
    if usage := frame.get("usage"):
        sample.prompt_tokens = usage["prompt_tokens"]
        sample.completion_tokens = usage["completion_tokens"]
    if any(choice["delta"].get("content") for choice in frame.get("choices", ())):
        sample.pieces_at.append(time.perf_counter())


async def run(load: Load, progress: Callable[[Sample], None]) -> list[Sample]:
    """Send the whole load and return a sample for each request, ordered by their ends."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {load.key}"}
    async with httpx.AsyncClient(
        base_url=load.url, headers=headers, limits=limits, timeout=load.timeout_s
    ) as client:
        sender = _Sender(load, client, progress)
        if load.rate is not None:
            await _open_loop(sender, load, load.rate)
        else:
            await _closed_loop(sender, load, load.concurrency or 1)
        return sender.samples


def bodies(load: Load) -> Iterator[dict[str, Any]]:
    """Yield the requests' bodies; the same seed gives the same ones."""
    source = random.Random(load.seed)  # noqa: S311 - repeatable load, no secret
    for _ in range(load.requests):
        words = " ".join(source.choices(_WORDS, k=load.prompt_words.draw(source)))
        yield {
            "model": load.model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": load.answer_tokens.draw(source),
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def _open_loop(sender: _Sender, load: Load, rate: float) -> None:
    source = random.Random(load.seed + 1)  # noqa: S311 - repeatable load, no secret
    began = time.perf_counter()
    due_at = began
    async with asyncio.TaskGroup() as sending:
        for body in bodies(load):
            due_at += source.expovariate(rate)
            if due_at - began > load.duration_s:
                break
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            sending.create_task(sender.send(body, due_at))


async def _closed_loop(sender: _Sender, load: Load, concurrency: int) -> None:
    began = time.perf_counter()
    waiting = bodies(load)

    async def client() -> None:
        for body in waiting:
            now = time.perf_counter()
            if now - began > load.duration_s:
                return
            await sender.send(body, now)

    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(client())
