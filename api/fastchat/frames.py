"""FastChat's stream: JSON objects with the text so far, each ended by a NUL byte."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from api.fastchat.errors import error_object
from api.fastchat.wire import END
from api.jobs.whole_answers import collect, usage_of
from api.openai.chat.best_of import likelihood
from api.openai.chat.logprobs import CompletionLogprobs
from penstock.contract.events import Tokens, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.jobs.generation import Generation
    from penstock.contract.events import Finished
    from penstock.errors import PenstockError

KEEPALIVE: Final = END
"""An empty object is skipped by all of FastChat's clients, and keeps their time-outs away."""


class Cumulative:
    """One answer in FastChat's format: every object contains all of the text so far."""

    def __init__(self) -> None:
        self._text = ""
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._reason: str | None = None
        self._logprobs = CompletionLogprobs()
        self._shown: dict[str, list[Any]] | None = None

    def take(self, event: Tokens | Finished) -> bool:
        """Add an event; return whether `object` has changed."""
        self._text += event.text
        if not isinstance(event, Tokens):
            self._reason = event.reason.value
            self._prompt_tokens = event.usage.prompt_tokens
            self._completion_tokens = event.usage.completion_tokens
            return bool(event.text)
        self._completion_tokens = event.index + len(event.token_ids)
        if event.prompt_tokens is not None:
            self._prompt_tokens = event.prompt_tokens
        if event.logprobs:
            self._add(self._logprobs(event.logprobs))
        return bool(event.text or event.logprobs)

    def _add(self, shape: dict[str, Any]) -> None:
        if self._shown is None:
            self._shown = {name: [] for name in shape}
        for name, values in shape.items():
            self._shown[name] += values

    def object(self, *, ended: bool) -> dict[str, Any]:
        """Return the state; the reason only in the object after the last text."""
        usage = Usage(self._prompt_tokens, self._completion_tokens)
        return _object(self._text, usage, self._reason if ended else None, self._shown)


def _object(
    text: str, usage: Usage, reason: str | None, logprobs: dict[str, list[Any]] | None
) -> dict[str, Any]:
    return {
        "text": text,
        "error_code": 0,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "finish_reason": reason,
        "logprobs": logprobs,
    }


def frame(content: dict[str, Any]) -> bytes:
    """Return one object of the stream."""
    return msgspec.json.encode(content) + END


async def error_frame(error: PenstockError) -> bytes:
    """Return the object that ends a stream which has begun and cannot be finished."""
    return frame(error_object(error))


async def stream_frames(generation: Generation) -> AsyncGenerator[bytes, None]:
    """Yield the frames of an answer.

    :raises PenstockError: as `Generation.events`.
    """
    answer = Cumulative()
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is None:
                yield KEEPALIVE
            elif answer.take(item[1]):
                yield frame(answer.object(ended=False))
    yield frame(answer.object(ended=True))


async def whole(generation: Generation, *, with_logprobs: bool) -> dict[str, Any]:
    """Return the last object of the stream; of several answers that of the likeliest.

    All of them count as used, as with OpenAI's `best_of`.

    :raises PenstockError: a job failed.
    """
    answers = await collect(generation)
    best = max(answers, key=likelihood)
    usage = usage_of([answer.usage for answer in answers], len(answers))
    logprobs = CompletionLogprobs()(best.logprobs) if with_logprobs else None
    return _object(best.text, usage, best.reason.value, logprobs)
