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
SILENCE_S = 8.0
"""Keep-alives come every 2 s."""
NO_END = "no end within"
PASSING = frozenset({"store_unavailable", "draining"})
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
    resumes: bool = True
    """Whether its client comes back until it has the answer; one without a key asks once."""
    begun_s: float = field(default_factory=time.monotonic)
    ended_s: float = 0.0
    job_id: str = ""
    text: str = ""
    finish_reason: str = ""
    error: str = ""
    """What its client gives up for; empty for what a client that resumes asks again after."""
    error_kind: str = ""
    """Its code in a stream, or the response's status."""
    refusal: str = ""
    """The error of its protocol that an answer without a key has ended with, or its status."""
    doubled: int = 0
    connections: int = 0
    last_id: int = -1
    last_name: str = ""
    """The last event's whole id, with which its client comes back."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When each chunk came, and its event's id."""

    @property
    def right(self) -> bool:
        whole = self.text == self.ask.text or bool(self.refusal)
        return not self.error and whole and not self.doubled

    @property
    def is_protocol_error(self) -> bool:
        """Whether its error is one that a client of a Redis without memory may get.

        A model that is served is never unknown, and nothing breaks down.
        """
        return self.error_kind not in {"", "404", "500", "internal_error", "engine_failed"}

    @property
    def spliced(self) -> bool:
        """Whether it holds what does not belong there, whole or not."""
        return not self.ask.text.startswith(self.text)

    def take(self, name: str, choice: dict[str, Any]) -> None:
        """Add a chunk; one whose id is not above the last one's has been here before."""
        event_id = int(name.partition("-")[0]) if name else None
        self.arrivals.append((time.monotonic(), -1 if event_id is None else event_id))
        if event_id is not None and event_id <= self.last_id:
            self.doubled += 1
        self.text += choice["text"]
        self.finish_reason = choice["finish_reason"] or ""
        if event_id is not None:
            self.last_id, self.last_name = event_id, name

    def longest_pause_s(self) -> float:
        """Between two events that arrived one after the other."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((later - earlier for (earlier, _), (later, _) in pairs), default=0.0)


class Clients:
    """Ask over any of several API processes; the same key always means the same job."""

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
                outcome.error = f"{NO_END} {GIVE_UP_S:g} s"
                break
            outcome.connections += 1
            with contextlib.suppress(httpx.HTTPError, OSError):
                async with asyncio.timeout(end_s - time.monotonic()):
                    await self._connection(outcome, key)
            if not outcome.finish_reason and not outcome.error:
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        outcome.ended_s = time.monotonic()
        return outcome

    async def ask_once(self, ask: Ask) -> Outcome:
        """Ask without a key: the answer comes whole, or breaks off with its connection or an error.

        A connection on which nothing comes for `SILENCE_S` is at an end for its client too.
        """
        outcome = Outcome(ask, resumes=False, connections=1)
        try:
            await asyncio.wait_for(self._connection(outcome, ""), GIVE_UP_S)
        except TimeoutError:
            outcome.error = f"{NO_END} {GIVE_UP_S:g} s"
        except (httpx.HTTPError, OSError) as error:
            outcome.refusal = type(error).__name__
        if not (outcome.finish_reason or outcome.refusal or outcome.error):
            outcome.error = "its stream ended without an end"
        outcome.ended_s = time.monotonic()
        return outcome

    async def _connection(self, outcome: Outcome, key: str) -> None:
        headers = {"idempotency-key": key} if key else {}
        if outcome.last_id >= 0:
            headers["last-event-id"] = outcome.last_name
        body = outcome.ask.body() | {"stream": True}
        url = f"{self._rng.choice(self._urls)}/v1/completions"
        async with self._http.stream("POST", url, json=body, headers=headers) as response:
            if response.status_code in (429, 502, 503):
                outcome.refusal = "" if outcome.resumes else str(response.status_code)
                await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 2.0))
                return
            if response.status_code != 200:
                await response.aread()
                outcome.error_kind = str(response.status_code)
                outcome.error = f"{response.status_code}: {response.text[:300]}"
                return
            outcome.job_id = response.headers.get(JOBS_HEADER, outcome.job_id)
            async for event_id, content in sse_events(response):
                if content == "[DONE]":
                    continue
                chunk = json.loads(content)
                if "error" in chunk:
                    # Redis was away for longer than the API's patience: ask again.
                    if chunk["error"]["code"] not in PASSING:
                        outcome.error_kind = chunk["error"]["code"]
                        outcome.error = str(chunk["error"])
                    elif not outcome.resumes:
                        outcome.refusal = chunk["error"]["code"]
                    return
                outcome.take(event_id, chunk["choices"][0])


async def sse_events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Yield (id, data) of a response's events; comments are skipped."""
    event_id = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            yield event_id, line[6:]
        elif not line:
            event_id = ""
