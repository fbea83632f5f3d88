"""Streamed completions over HTTP, and when their tokens came."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import httpx
from httpx_sse import EventSource


@dataclass
class Answer:
    """When a request was sent and when each piece of text came, in seconds; `tokens` it has."""

    sent_s: float
    tokens: int
    times_s: list[float] = field(default_factory=list[float])

    @property
    def ttft_s(self) -> float:
        """Seconds to the first text."""
        return self.times_s[0] - self.sent_s


async def ask_all(url: str, model: str, prompts: list[str], tokens: int) -> list[Answer]:
    """Send all prompts at once as `/v1/completions`, greedy; every answer has `tokens` tokens."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return await asyncio.gather(*(_ask(client, model, text, tokens) for text in prompts))


async def _ask(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> Answer:
    """Stream one answer.

    A piece without text (special tokens, a role) is no token that a reader sees; the answer's
    length is taken from its finish reason, which has to be `length`.
    """
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    answer = Answer(time.perf_counter(), tokens)
    reason = None
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            raise SystemExit(f"{response.status_code}: {(await response.aread())[:500]!r}")
        async for event in EventSource(response).aiter_sse():
            if event.data == "[DONE]":
                continue
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise SystemExit(event.data)
            for choice in chunk["choices"]:
                reason = choice.get("finish_reason") or reason
                if choice.get("text"):
                    answer.times_s.append(time.perf_counter())
    if reason != "length" or not answer.times_s:
        raise SystemExit(f"{model}: an answer of another length ({reason})")
    return answer
