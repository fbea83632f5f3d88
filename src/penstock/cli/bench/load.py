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

from penstock.cli.bench.shapes import sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.cli.bench.shapes import Session
    from penstock.cli.bench.workload import Load

_DONE = "[DONE]"
_LONGEST_CODE = 80


@dataclass
class Sample:
    """One request. Times are seconds on one clock; `due_at` is when it should have been sent.

    `pieces_at` are the arrival times of the pieces that carried text, and `text` is all of it.
    `error` is empty if the answer is complete.
    """

    due_at: float
    sent_at: float = 0.0
    ended_at: float = 0.0
    pieces_at: list[float] = field(default_factory=list[float])
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    text: str = ""


@dataclass
class _Sender:
    """Sends the load's requests with one client and collects the samples."""

    load: Load
    client: httpx.AsyncClient
    progress: Callable[[Sample], None]
    samples: list[Sample] = field(default_factory=list[Sample])

    async def send(self, session: Session, due_at: float) -> None:
        """Send a session's requests one after another; a failure ends it."""
        answer = ""
        while (body := session.next_body(answer)) is not None:
            sample = await self._send(body, due_at)
            if sample.error:
                return
            answer, due_at = sample.text, sample.ended_at

    async def _send(self, body: dict[str, Any], due_at: float) -> Sample:
        """Send one request; a failure is recorded in its sample."""
        sample = Sample(due_at=due_at, sent_at=time.perf_counter())
        try:
            await self._stream(body, sample)
        except httpx.HTTPError as error:
            sample.error = type(error).__name__
        except (ValueError, LookupError, TypeError, AttributeError):
            sample.error = "no frame of a chat completion"
        sample.ended_at = time.perf_counter()
        self.samples.append(sample)
        self.progress(sample)
        return sample

    async def _stream(self, body: dict[str, Any], sample: Sample) -> None:
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if not answer.is_success:
                code = _error_code(await answer.aread())
                sample.error = f"HTTP {answer.status_code} {code}".rstrip()
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
    deltas = [choice["delta"] for choice in frame.get("choices", ())]
    text = "".join(_text_of(delta) for delta in deltas)
    if text:
        sample.pieces_at.append(time.perf_counter())
        sample.text += text


def _error_code(body: bytes) -> str:
    """Return an error body's code; empty if it has none."""
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error.get("code") or error.get("type") or "")[:_LONGEST_CODE]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _text_of(delta: dict[str, Any]) -> str:
    """Return a delta's text; reasoning has one of two names."""
    names = ("reasoning_content", "reasoning", "content")
    return next((str(delta[name]) for name in names if delta.get(name)), "")


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


async def _open_loop(sender: _Sender, load: Load, rate: float) -> None:
    source = random.Random(load.seed + 1)  # noqa: S311 - repeatable load, no secret
    began = time.perf_counter()
    due_at = began
    async with asyncio.TaskGroup() as sending:
        for session in sessions(load):
            # A gamma process; burstiness 1 is Poisson's.
            due_at += source.gammavariate(load.burstiness, 1 / (rate * load.burstiness))
            if due_at - began > load.duration_s:
                break
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            sending.create_task(sender.send(session, due_at))


async def _closed_loop(sender: _Sender, load: Load, concurrency: int) -> None:
    began = time.perf_counter()
    waiting = sessions(load)

    async def client() -> None:
        for session in waiting:
            now = time.perf_counter()
            if now - began > load.duration_s:
                return
            await sender.send(session, now)

    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(client())
