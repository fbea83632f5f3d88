"""The chunks of OpenAI's streams.

All of a chunk but its text is the same for a whole stream, so it is encoded once: a stream's
20 chunks a second, times hundreds of streams, are what an API process spends its time on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from api.http.streaming import DONE
from api.jobs.whole_answers import usage_of
from api.openai.chat.answers import usage_object
from api.openai.chat.logprobs import ChatLogprobs, CompletionLogprobs
from penstock.contract.events import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.jobs.event_ids import EventIds
    from api.openai.chat.answers import Heading
    from api.openai.chat.logprobs import LogprobsShape
    from penstock.contract.events import Finished, PositionLogprobs, Usage

_encode = msgspec.json.Encoder().encode

LINE_ENDS: Final = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))
"""Characters at which some clients end a line of SSE, though only CR and LF do so."""


def encode(value: object) -> bytes:
    """Return JSON that no client's splitting of lines can tear apart."""
    encoded = _encode(value)
    if not encoded.isascii():
        for character, escaped in LINE_ENDS:
            encoded = encoded.replace(character.encode(), escaped)
    return encoded


@dataclass(frozen=True)
class Shape:
    """Where a chunk's choice holds its text: `before` + text + `after`.

    `first` opens a choice, `empty` stands in for text in a final chunk that has none.
    """

    object: str
    before: bytes
    after: bytes
    first: bytes
    empty: bytes
    logprobs: Callable[[], LogprobsShape]


CHAT: Final = Shape(
    object="chat.completion.chunk",
    before=b'"delta":{"content":',
    after=b"}",
    first=b'"delta":{"role":"assistant","content":""}',
    empty=b'"delta":{}',
    logprobs=ChatLogprobs,
)
COMPLETION: Final = Shape(
    object="text_completion",
    before=b'"text":',
    after=b"",
    first=b"",
    empty=b'"text":""',
    logprobs=CompletionLogprobs,
)


class _Choice:
    """The constant bytes of one choice."""

    def __init__(self, shape: Shape, head: bytes, position: int, tail: bytes) -> None:
        self._shape = shape
        self._start = b"data: %b%d," % (head, position)
        self._tail = tail
        self._before = self._start + shape.before
        self._plain_after = self._after(b"null", b"null")
        self._logprobs = shape.logprobs()
        self.opened = not shape.first

    def _after(self, logprobs: bytes, reason: bytes) -> bytes:
        return self._shape.after + self._close(logprobs, reason)

    def _close(self, logprobs: bytes, reason: bytes) -> bytes:
        return b',"logprobs":%b,"finish_reason":%b}]%b' % (logprobs, reason, self._tail)

    def first(self) -> bytes:
        """Return the chunk that names the role."""
        self.opened = True
        return self._start + self._shape.first + self._close(b"null", b"null")

    def text(self, text: str, positions: tuple[PositionLogprobs, ...]) -> bytes:
        """Return a chunk of text."""
        if not positions:
            return self._before + encode(text) + self._plain_after
        logprobs = encode(self._logprobs(positions))
        return self._before + encode(text) + self._after(logprobs, b"null")

    def last(self, text: str, reason: str, positions: tuple[PositionLogprobs, ...] = ()) -> bytes:
        """Return the chunk with the choice's finish_reason and the text withheld until then.

        One chunk: a client that resumes after its id must have both or neither.
        """
        if positions:
            logprobs = encode(self._logprobs(positions))
            return self._before + encode(text) + self._after(logprobs, encode(reason))
        if text:
            return self._before + encode(text) + self._after(b"null", encode(reason))
        return self._start + self._shape.empty + self._close(b"null", encode(reason))


class ChunkWriter:
    """Writes one stream.

    Events with `ids` have `id:` lines, by which a client that lost its connection resumes.
    """

    def __init__(
        self,
        shape: Shape,
        heading: Heading,
        *,
        positions: int,
        choices: int,
        include_usage: bool,
        ids: EventIds | None = None,
        after: int = -1,
    ) -> None:
        """Write for `positions` sequences; `after` >= 0 continues a stream."""
        self._heading = heading
        self._shape = shape
        self._include_usage = include_usage
        self._choices_a_prompt = choices
        self._usages: list[Usage | None] = [None] * positions
        head = encode(heading.object(shape.object))[:-1] + b',"choices":[{"index":'
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._choices = [_Choice(shape, head, position, tail) for position in range(positions)]
        self._ids = ids
        if after >= 0:
            self._choices[0].opened = True

    def event(self, position: int, event: Tokens | Finished) -> bytes:
        """Return the frames of one event; none if a token has completed no text."""
        choice = self._choices[position]
        first = b"" if choice.opened else self._open(position)
        if isinstance(event, Tokens):
            if not event.text and not event.logprobs:
                return first
            return first + self._id() + choice.text(event.text, event.logprobs)
        self._usages[position] = event.usage
        last = choice.last(event.text, event.reason.value, event.logprobs)
        return first + self._id() + last

    def _open(self, position: int) -> bytes:
        """Open the choices up to one: OpenAI's SDK breaks if the first chunk is not choice 0's."""
        unopened = [choice for choice in self._choices[: position + 1] if not choice.opened]
        return b"".join(choice.first() for choice in unopened)

    def _id(self) -> bytes:
        return self._ids.line() if self._ids else b""

    def end(self) -> bytes:
        """Return the usage, if requested, and the end mark."""
        if not self._include_usage:
            return DONE
        total = usage_of([usage for usage in self._usages if usage], self._choices_a_prompt)
        chunk: dict[str, Any] = {
            **self._heading.object(self._shape.object),
            "choices": [],
            "usage": usage_object(total),
        }
        return b"data: " + encode(chunk) + b"\n\n" + DONE
