"""OpenAI's harmony (gpt-oss): messages with a channel each, and calls that are messages to a function.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant to=functions.f<|channel|>commentary
json<|message|>{...}<|call|>`: analysis is reasoning, final and other commentary are content.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing.reasoning import Trimmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
CONSTRAIN: Final = "<|constrain|>"
MESSAGE: Final = "<|message|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")
ANALYSIS: Final = "analysis"

_RECIPIENT: Final = re.compile(r"\bto=([\w.:-]+)")
_FUNCTIONS: Final = "functions."
_LONGEST_HEADER: Final = 512


def read(source: Source) -> Step[None]:
    """See `Dialect`. Text without any header is content."""
    messages = _Messages(source)
    is_first = True
    while (yield from source.peek()):
        header = yield from _header(source, is_first=is_first)
        is_first = False
        if header is None:
            marker = yield from source.until(START, CHANNEL, *ENDS, emit=source.content)
            if marker in (START, CHANNEL):
                source.advance(-len(marker))
        else:
            yield from messages.read(header)


def _header(source: Source, *, is_first: bool) -> Step[str | None]:
    """Return what stands before a message, its markers set off by spaces; None if none comes."""
    source.mark()
    begins = yield from source.skip(START, CHANNEL)
    if not begins and not (is_first and (yield from source.ahead(" to=", "to="))):
        source.forget_mark()
        return None
    header = [begins]
    size = 0
    while size < _LONGEST_HEADER:
        pieces: list[str] = []
        marker = yield from source.until(CHANNEL, CONSTRAIN, MESSAGE, *ENDS, emit=pieces.append)
        header += pieces
        size += sum(map(len, pieces))
        if marker == MESSAGE:
            source.forget_mark()
            return "".join(header)
        if not marker or marker in ENDS:
            break
        header.append(f" {marker}")
    source.give_up()
    return None


class _Messages:
    """Reads the text of messages, and keeps those of one kind apart by an empty line."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._thoughts = self._contents = 0

    def read(self, header: str) -> Step[None]:
        """Read the message behind a header."""
        source = self._source
        name = self._function(header)
        if name:
            source.begin_call(name)
            arguments = Trimmed(source.arguments)
            yield from self._text(arguments)
            if not arguments.begun:
                source.arguments("{}")
        elif header.partition(CHANNEL)[2].lstrip().startswith(ANALYSIS):
            source.thought("\n\n" if self._thoughts else "")
            self._thoughts += 1
            source.think(True)
            yield from self._text(Trimmed(source.thought))
            source.think(False)
        else:
            source.content("\n\n" if self._contents else "")
            self._contents += 1
            yield from self._text(source.content)

    def _function(self, header: str) -> str:
        """Return the function that a message is to; empty for the reader."""
        recipient = _RECIPIENT.search(header)
        if recipient is None or not self._source.functions:
            return ""
        name = recipient[1].removeprefix(_FUNCTIONS)
        return name if name != recipient[1] or name in self._source.functions else ""

    def _text(self, emit: Callable[[str], None]) -> Step[None]:
        marker = yield from self._source.until(*ENDS, START, emit=emit)
        if marker == START:
            self._source.advance(-len(START))
