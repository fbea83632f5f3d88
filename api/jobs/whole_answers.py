"""The whole answers of a generation, for clients that do not stream, and their usage."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.contract.events import FinishReason, Tokens, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.jobs.generation import Generation
    from penstock.contract.events import PositionLogprobs


@dataclass
class Answer:
    """The whole answer of one job."""

    texts: list[str] = field(default_factory=list[str])
    counts: list[int] = field(default_factory=list[int])
    """How many tokens came with each of the texts."""
    logprobs: list[PositionLogprobs] = field(default_factory=list["PositionLogprobs"])
    reason: FinishReason = FinishReason.STOP
    embedding: str = ""
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self.texts)


async def collect(generation: Generation) -> list[Answer]:
    """Return every job's whole answer, in the jobs' order.

    :raises PenstockError: one of them failed.
    """
    answers = [Answer() for _ in generation.jobs]
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is None:
                continue
            position, event = item
            answer = answers[position]
            answer.texts.append(event.text)
            answer.counts.append(len(event.token_ids) if isinstance(event, Tokens) else 0)
            answer.logprobs.extend(event.logprobs)
            if not isinstance(event, Tokens):
                answer.reason, answer.usage = event.reason, event.usage
                answer.embedding = event.embedding
    return answers


def usage_of(usages: Sequence[Usage], choices: int) -> Usage:
    """Return a request's usage: each prompt once, and the answers of all its `choices`."""
    prompts = usages[::choices]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in prompts),
    )
