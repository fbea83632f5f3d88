"""A chat's parsed answers: reasoning and tool calls separated from content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.http.streaming import DONE
from api.jobs.whole_answers import usage_of
from api.openai.chat import call_shapes
from api.openai.chat.answers import usage_object
from api.openai.chat.call_shapes import CallDeltas
from api.openai.chat.chunks import encode
from api.openai.chat.logprobs import ChatLogprobs
from api.parsing.deltas import CallArguments, CallBegin, Content, Delta, Message, Thought
from penstock.contract.events import FinishReason, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.jobs.event_ids import EventIds
    from api.jobs.whole_answers import Answer
    from api.openai.chat.answers import Heading
    from api.openai.chat.tools import Reading
    from penstock.contract.events import Finished, Usage

OBJECT: Final = "chat.completion.chunk"
OPENING: Final = {"role": "assistant", "content": ""}


def finish_reason(reading: Reading, reason: FinishReason, calls: int) -> str:
    """Return OpenAI's reason: calls that are whole are one of their own."""
    called = calls and reason is FinishReason.STOP
    return call_shapes.reason(reading) if called else reason.value


def read_message(reading: Reading, job_id: str, answer: Answer) -> tuple[dict[str, Any], str]:
    """Return a whole answer's message and its finish reason."""
    parser, message = reading.parser(), Message()
    for delta in (*parser.push(answer.text), *parser.finish()):
        message.add(delta)
    shown: dict[str, Any] = {
        "role": "assistant",
        "content": None if message.calls and not message.content else message.content,
        "refusal": None,
    }
    if message.thought and reading.show_reasoning:
        shown["reasoning_content"] = message.thought
    shown |= call_shapes.members(reading, job_id, message.calls)
    return shown, finish_reason(reading, answer.reason, len(message.calls))


def reasoning_tokens(reading: Reading, answers: Sequence[Answer]) -> int:
    """Return how many of the answers' tokens were reasoning."""
    if not reading.reasoning:
        return 0
    total = 0
    for answer in answers:
        parser = reading.parser()
        for text, tokens in zip(answer.texts, answer.counts, strict=True):
            parser.push(text, tokens)
        total += parser.reasoning_tokens
    return total


def _choice(
    position: int, delta: Mapping[str, Any], logprobs: Any = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": position, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class ReadChunkWriter:
    """Writes a stream of chat chunks; see `api.openai.chat.chunks.ChunkWriter` for plain text.

    An event makes one chunk at most, so that its id stands for all of it. The parsers have to see
    a job's events from its first on; `after` is the index of the last one that the client already has.
    """

    def __init__(
        self,
        reading: Reading,
        heading: Heading,
        job_ids: Sequence[str],
        *,
        include_usage: bool,
        ids: EventIds | None = None,
        after: int = -1,
    ) -> None:
        """Events with `ids` are those by which a client that lost its connection resumes."""
        self._reading = reading
        self._heading = heading
        self._job_ids = job_ids
        self._include_usage = include_usage
        self._ids = ids
        self._after = after
        self._parsers = [reading.parser() for _ in job_ids]
        self._calls = [CallDeltas(reading, job_id) for job_id in job_ids]
        self._opened = [False] * len(job_ids)
        self._usages: list[Usage | None] = [None] * len(job_ids)
        self._logprobs = ChatLogprobs()

    def event(self, position: int, event: Tokens | Finished) -> bytes:
        """Return the frame of one event; b"" if it has completed no text."""
        parser = self._parsers[position]
        tokens = len(event.token_ids) if isinstance(event, Tokens) else 0
        deltas = parser.push(event.text, tokens)
        reason = logprobs = None
        if isinstance(event, Tokens):
            if event.logprobs:
                logprobs = self._logprobs(event.logprobs)
        else:
            self._usages[position] = event.usage
            deltas = [*deltas, *parser.finish()]
            reason = finish_reason(self._reading, event.reason, parser.calls)
        delta = self._delta(position, deltas)
        is_first = not self._opened[position]
        before = self._open(position) if is_first else b""
        if event.index <= self._after:
            return b""
        if is_first:
            delta = {**OPENING, **delta}
        elif not delta and logprobs is None and reason is None:
            return b""
        name = self._ids.line() if self._ids else b""
        return before + name + self._chunk([_choice(position, delta, logprobs, reason)])

    def _open(self, position: int) -> bytes:
        """Mark a choice as opened, and open those before it.

        OpenAI's SDK breaks if a stream's first chunk is not choice 0's.
        """
        unopened = [lower for lower in range(position) if not self._opened[lower]]
        self._opened[: position + 1] = [True] * (position + 1)
        return b"".join(self._chunk([_choice(lower, OPENING)]) for lower in unopened)

    def end(self) -> bytes:
        """Return the usage, if requested, and the end mark."""
        if not self._include_usage:
            return DONE
        usages = [usage for usage in self._usages if usage]
        thought = sum(parser.reasoning_tokens for parser in self._parsers)
        total = usage_object(usage_of(usages, len(self._job_ids)), thought)
        return self._chunk([], total) + DONE

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._heading.object(OBJECT), "choices": choices}
        if self._include_usage:
            chunk["usage"] = usage
        return b"data: " + encode(chunk) + b"\n\n"

    def _delta(self, position: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Return OpenAI's delta of some of ours."""
        shown: dict[str, Any] = {}
        calls: list[CallBegin | CallArguments] = []
        for delta in deltas:
            match delta:
                case Content(text):
                    shown["content"] = shown.get("content", "") + text
                case Thought(text):
                    if self._reading.show_reasoning:
                        shown["reasoning_content"] = shown.get("reasoning_content", "") + text
                case CallBegin() | CallArguments():
                    calls.append(delta)
        return shown | self._calls[position].members(calls)
