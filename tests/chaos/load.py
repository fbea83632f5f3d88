"""Clients that want one answer each, whatever happens to the connection meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

MODEL = "tiny-llama"
GIVE_UP_S = 240.0
JOBS_HEADER = "x-penstock-jobs"

_WORDS = [
    "water",
    "flows",
    "through",
    "the",
    "penstock",
    "to",
    "a",
    "turbine",
    "and",
    "turns",
    "one",
    "two",
    "three",
    "answer",
    "is",
]


@dataclass(frozen=True)
class Ask:
    """What a client asks for, and the text that an undisturbed fleet gives."""

    prompt: str
    max_tokens: int
    temperature: float
    seed: int
    text: str = ""

    def body(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "ignore_eos": True,
        }


def draw_asks(count: int, seed: int, tokens: tuple[int, int]) -> list[Ask]:
    """Return asks of all sizes, half of them greedy."""
    rng = random.Random(seed)
    return [
        Ask(
            prompt=" ".join(rng.choices(_WORDS, k=rng.randint(3, 40))),
            max_tokens=rng.randint(*tokens),
            temperature=0.0 if number % 2 else rng.choice((0.7, 1.0)),
            seed=rng.getrandbits(32),
        )
        for number in range(count)
    ]


@dataclass
class Outcome:
    """What one client has seen. Times are monotonic."""

    ask: Ask
    job_id: str = ""
    text: str = ""
    finish_reason: str = ""
    error: str = ""
    doubled: int = 0
    connections: int = 0
    last_id: int = -1
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When each chunk came, and its event's id."""

    @property
    def right(self) -> bool:
        return not self.error and self.text == self.ask.text and not self.doubled

    def take(self, event_id: int | None, choice: dict[str, Any]) -> None:
        """Add a chunk; one whose id is not above the last one's has been here before."""
        self.arrivals.append((time.monotonic(), -1 if event_id is None else event_id))
        if event_id is not None and event_id <= self.last_id:
            self.doubled += 1
        self.text += choice["text"]
        self.finish_reason = choice["finish_reason"] or ""
        self.last_id = self.last_id if event_id is None else event_id

    def longest_pause_s(self) -> float:
        """Between two events that arrived one after the other."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((later - earlier for (earlier, _), (later, _) in pairs), default=0.0)


class ResumingClient:
    """Asks over any of several API processes; the same key always means the same job."""

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str], rng: random.Random) -> None:
        self._http = http
        self._urls = urls
        self._rng = rng

    async def ask(self, ask: Ask) -> Outcome:
        """Return the outcome; an error in it is one that no further try could mend."""
        outcome = Outcome(ask)
        key = uuid.uuid4().hex
        end_s = time.monotonic() + GIVE_UP_S
        while not outcome.finish_reason and not outcome.error:
            if time.monotonic() > end_s:
                outcome.error = f"no end within {GIVE_UP_S:g} s"
                break
            outcome.connections += 1
            with contextlib.suppress(httpx.HTTPError, OSError):
                await self._connection(outcome, key)
            if not outcome.finish_reason and not outcome.error:
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        return outcome

    async def _connection(self, outcome: Outcome, key: str) -> None:
        headers = {"idempotency-key": key}
        if outcome.last_id >= 0:
            headers["last-event-id"] = str(outcome.last_id)
        body = outcome.ask.body() | {"stream": True}
        url = f"{self._rng.choice(self._urls)}/v1/completions"
        async with self._http.stream("POST", url, json=body, headers=headers) as response:
            if response.status_code in (429, 502, 503):
                await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 2.0))
                return
            if response.status_code != 200:
                await response.aread()
                outcome.error = f"{response.status_code}: {response.text[:300]}"
                return
            outcome.job_id = response.headers.get(JOBS_HEADER, outcome.job_id)
            async for event_id, content in sse_events(response):
                if content == "[DONE]":
                    continue
                chunk = json.loads(content)
                if "error" in chunk:
                    # Redis was away for longer than the API's patience: ask again.
                    if chunk["error"]["code"] not in {"store_unavailable", "draining"}:
                        outcome.error = str(chunk["error"])
                    return
                outcome.take(event_id, chunk["choices"][0])


async def sse_events(response: httpx.Response) -> AsyncIterator[tuple[int | None, str]]:
    """Yield (id, data) of a response's events; comments are skipped."""
    event_id: int | None = None
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = int(line[4:])
        elif line.startswith("data: "):
            yield event_id, line[6:]
        elif not line:
            event_id = None
