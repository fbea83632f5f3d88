"""Whole answers in OpenAI's shapes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import penstock
from api.openai.chat.logprobs import ChatLogprobs, CompletionLogprobs
from penstock.clock import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.jobs.whole_answers import Answer
    from penstock.contract.events import Usage
    from penstock.contract.worker import ModelCard


@dataclass(frozen=True)
class Heading:
    """What every chunk and every answer of one request begins with."""

    id: str
    model: str
    fingerprint: str
    created_s: int = field(default_factory=lambda: int(clock.now_s()))

    def object(self, kind: str) -> dict[str, Any]:
        """Return the fields, with `object` as `kind`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def fingerprint(card: ModelCard) -> str:
    """Return a name for what, besides the request, decides an answer: version, format, device."""
    parts = (penstock.__version__, card.queue, card.backend, card.format, str(card.weights_bytes))
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def usage_object(usage: Usage, reasoning_tokens: int = 0) -> dict[str, Any]:
    """Return OpenAI's usage."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


Message = tuple[dict[str, Any], str]
"""A chat's message in OpenAI's shape, and its finish reason."""


def plain_message(answer: Answer) -> Message:
    """Return a message whose content is all of the answer's text."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return message, answer.reason.value


def chat_completion(
    heading: Heading,
    answers: Sequence[Answer],
    messages: Sequence[Message],
    usage: dict[str, Any],
) -> dict[str, Any]:
    """Return a `chat.completion`; every answer is a choice of the one prompt."""
    return {
        **heading.object("chat.completion"),
        "choices": [
            {
                "index": index,
                "message": message,
                "logprobs": ChatLogprobs()(answer.logprobs) if answer.logprobs else None,
                "finish_reason": reason,
            }
            for index, (answer, (message, reason)) in enumerate(zip(answers, messages, strict=True))
        ],
        "usage": usage,
    }


def text_completion(heading: Heading, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
    """Return a `text_completion`: answers to the first prompt, then to the second..."""
    return {
        **heading.object("text_completion"),
        "choices": [
            {
                "index": index,
                "text": answer.text,
                "logprobs": CompletionLogprobs()(answer.logprobs) if answer.logprobs else None,
                "finish_reason": answer.reason.value,
            }
            for index, answer in enumerate(answers)
        ],
        "usage": usage_object(usage),
    }
