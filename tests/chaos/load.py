"""Clients that want one answer each, whatever happens to the connection meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from api.fastchat.errors import ErrorCode
from tests.chaos import protocols

if TYPE_CHECKING:
    from collections.abc import Sequence

GIVE_UP_S = 240.0
SILENCE_S = 8.0
"""Keep-alives come every 2 s."""
NO_END = "no end within"
PASSING = frozenset({
    "store_unavailable", "draining", "overloaded_error",
    str(int(ErrorCode.CONTROLLER_NO_WORKER)), str(int(ErrorCode.ENGINE_OVERLOADED)),
})  # fmt: skip
"""Codes after which a client asks again, in the words of each protocol."""

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
    protocol: str = "completions"
    model: str = "tiny-llama"
    journal_text: str | None = None
    """What its job's journal holds, where that is not what the client reads."""


def draw_asks(
    count: int,
    seed: int,
    tokens: tuple[int, int],
    names: Sequence[str] = ("completions",),
    models: Sequence[str] = ("tiny-llama",),
) -> list[Ask]:
    """Return asks of all sizes, by these protocols and of these models in turn; half are greedy."""
    rng = random.Random(seed)
    return [
        Ask(
            prompt=" ".join(rng.choices(_WORDS, k=rng.randint(3, 40))),
            max_tokens=rng.randint(*tokens),
            temperature=temperature if protocols.BY_NAME[name].has_seed else 0.0,
            seed=rng.getrandbits(32),
            protocol=name,
            model=models[number // 2 // len(names) % len(models)],
        )
        for number in range(count)
        for temperature in (0.0 if number % 2 else rng.choice((0.7, 1.0)),)
        for name in (names[number // 2 % len(names)],)
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
    key: str = ""
    """Its `Idempotency-Key`, if it has one."""
    text: str = ""
    earlier: list[str] = field(default_factory=list)
    """What it had heard by earlier connections, where each begins with the first token."""
    finish_reason: str = ""
    stop_reason: str = ""
    error: str = ""
    """What its client gives up for; empty for what a client that resumes asks again after."""
    error_kind: str = ""
    """Its code in a stream, or the response's status."""
    refusal: str = ""
    """The error of its protocol that an answer without a key has ended with, or its status."""
    has_passed: bool = False
    """Whether this connection has ended with an error after which it asks again."""
    doubled: int = 0
    connections: int = 0
    last_id: int = -1
    last_name: str = ""
    """The last event's whole id, with which its client comes back."""
    stored_id: str = ""
    """Of a response that is kept."""
    steps: dict[str, str] = field(default_factory=dict)
    """What it has been given on its way, by name."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When each chunk came, and its event's id."""
    setbacks: list[tuple[float, str]] = field(default_factory=list)
    """When a connection ended before its answer, and how."""

    @property
    def right(self) -> bool:
        whole = self.text == self.ask.text or bool(self.refusal)
        return not self.error and whole and not self.doubled

    @property
    def is_protocol_error(self) -> bool:
        """Whether its error is one that a client of a Redis without memory may get.

        A model that is served is never unknown, and nothing breaks down.
        """
        if self.error_kind in protocols.BY_NAME[self.ask.protocol].forgets:
            return True
        return self.error_kind not in {"", "404", "500", "internal_error", "engine_failed"}

    @property
    def spliced(self) -> bool:
        """Whether it holds what does not belong there, whole or not."""
        return not all(map(self.ask.text.startswith, (*self.earlier, self.text)))

    def begin_again(self) -> None:
        """Hear the answer from its first token."""
        if self.text:
            self.earlier.append(self.text)
        self.text = ""

    def hear(self, text: str, name: str = "") -> None:
        """Add text; `name` is its event's id, if it has one."""
        if name:
            self.number(name)
        self.arrivals.append((time.monotonic(), self.last_id if name else -1))
        self.text += text

    def number(self, name: str) -> None:
        """Note an event's id; one that is not above the last one's has been here before."""
        event_id = int(name.partition("-")[0])
        self.doubled += event_id <= self.last_id
        self.last_id = event_id
        self.last_name = name if "-" in name else ""

    def refuse(self, status: int, text: str) -> None:
        """Note a status that is no success."""
        if status in protocols.BUSY:
            self._pass(str(status))
        else:
            self.error_kind, self.error = str(status), f"{status}: {text[:300]}"

    def fail(self, code: str, error: Any, *, is_final: bool = False) -> None:
        """Note an error in a stream.

        Redis was away for longer than the API's patience, or a process leaves: ask again.
        """
        if code in PASSING and not is_final:
            self._pass(code)
        else:
            self.error_kind, self.error = code, str(error)[:300]

    def _pass(self, what: str) -> None:
        self.has_passed = True
        self.setbacks.append((time.monotonic(), what))
        if not self.resumes:
            self.refusal = what

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
        outcome = Outcome(ask, key=uuid.uuid4().hex)
        end_s = time.monotonic() + GIVE_UP_S
        while not outcome.finish_reason and not outcome.error:
            if time.monotonic() > end_s:
                outcome.error = f"{NO_END} {GIVE_UP_S:g} s"
                break
            try:
                async with asyncio.timeout(end_s - time.monotonic()):
                    await self._attempt(outcome)
            except (httpx.HTTPError, OSError) as error:
                outcome.setbacks.append((time.monotonic(), type(error).__name__))
            if not outcome.finish_reason and not outcome.error:
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        outcome.ended_s = time.monotonic()
        return outcome

    async def ask_once(self, ask: Ask) -> Outcome:
        """Ask without a key: the answer comes whole, or breaks off with its connection or an error.

        A connection on which nothing comes for `SILENCE_S` is at an end for its client too.
        """
        outcome = Outcome(ask, resumes=False)
        try:
            await asyncio.wait_for(self._attempt(outcome), GIVE_UP_S)
        except TimeoutError:
            outcome.error = f"{NO_END} {GIVE_UP_S:g} s"
        except (httpx.HTTPError, OSError) as error:
            outcome.refusal = type(error).__name__
        if not (outcome.finish_reason or outcome.refusal or outcome.error):
            outcome.error = "its stream ended without an end"
        outcome.ended_s = time.monotonic()
        return outcome

    async def _attempt(self, outcome: Outcome) -> None:
        outcome.connections += 1
        outcome.has_passed = False
        protocol = protocols.BY_NAME[outcome.ask.protocol]
        await protocol.attempt(self._http, self._rng.choice(self._urls), outcome)
