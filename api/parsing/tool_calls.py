"""Calls of tools in the formats that open models write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from api.parsing.call_reader import CallReader
from api.parsing.deltas import CallArguments, CallBegin, Content, Delta
from api.parsing.markers import suspect, trailing_space

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_PREAMBLE: Final = 120
"""Characters that a name before its arguments may take (Mistral)."""

_MISTRAL_NAME: Final = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*")


class ToolParser(Protocol):
    """Tells calls from text. What cannot be a call is text, just as it was written."""

    def push(self, text: str) -> list[Delta]:
        """Return what is certain after one more piece."""
        ...

    def finish(self) -> list[Delta]:
        """Return what was held back: the text has ended."""
        ...


class _Calls:
    """What the parsers share: text around the calls, and the call that is being read."""

    def __init__(self) -> None:
        self._held = ""
        self._count = 0
        self._reader: CallReader | None = None
        self._is_told = False

    def _text(self, text: str) -> list[Delta]:
        """Text outside of calls; white space alone is none once there are calls."""
        return [] if not text or (self._count and not text.strip()) else [Content(text)]

    def _certain(self, marker: str) -> str:
        """Return what is held, but for an end that may begin a marker, or the space before one."""
        kept = suspect(self._held, marker)
        kept += trailing_space(self._held[: len(self._held) - kept])
        place = len(self._held) - kept
        text, self._held = self._held[:place], self._held[place:]
        return text

    def _read(self, reader: CallReader) -> list[Delta]:
        """Feed what is held to the reader, and tell what it has found."""
        self._held = reader.push(self._held)
        found: list[Delta] = []
        if reader.begun and not self._is_told and reader.name is not None:
            self._is_told = True
            found.append(CallBegin(self._count, reader.name))
            self._count += 1
        arguments = reader.arguments()
        if arguments and self._is_told:
            found.append(CallArguments(self._count - 1, arguments))
        return found

    def _begin(self, reader: CallReader) -> None:
        self._reader, self._is_told = reader, False

    def _end(self) -> None:
        self._reader = None

    def _unfinished(self, before: str) -> list[Delta]:
        """Return the text of a call that ends before it can be told of."""
        reader, self._reader = self._reader, None
        if reader is None or self._is_told:
            return []
        return self._text(before + reader.raw)


class HermesParser(_Calls):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, of Hermes, Qwen and many more."""

    BEGIN: Final = "<tool_call>"
    END: Final = "</tool_call>"

    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def push(self, text: str) -> list[Delta]:
        """See `ToolParser`."""
        self._held += text
        found: list[Delta] = []
        while True:
            before = (len(self._held), self._reader, self._closing)
            found += self._step()
            if (len(self._held), self._reader, self._closing) == before:
                return found

    def finish(self) -> list[Delta]:
        """See `ToolParser`."""
        found = self._unfinished(self.BEGIN)
        held, self._held = self._held, ""
        return found + ([] if self._closing else self._text(held))

    def _step(self) -> list[Delta]:
        if self._reader is not None:
            return self._within(self._reader)
        if self._closing:
            return self._close()
        return self._outside()

    def _outside(self) -> list[Delta]:
        place = self._held.find(self.BEGIN)
        if place >= 0:
            text, self._held = self._held[:place].rstrip(), self._held[place + len(self.BEGIN) :]
            found = self._text(text)
            self._begin(CallReader())
            return found
        return self._text(self._certain(self.BEGIN))

    def _within(self, reader: CallReader) -> list[Delta]:
        found = self._read(reader)
        if reader.malformed:
            found += self._unfinished(self.BEGIN)
            self._end()
        elif reader.done:
            self._end()
            self._closing = True
        return found

    def _close(self) -> list[Delta]:
        """Skip the closing marker; a model that forgets it is forgiven."""
        rest = self._held.lstrip()
        if rest.startswith(self.END):
            self._held = rest[len(self.END) :]
            self._closing = False
        elif not self.END.startswith(rest):
            self._closing = False
        return []


class LlamaParser(_Calls):
    """`{"name": ..., "parameters": {...}}` and nothing else, `;` between several (Llama 3.x).

    As no marker tells a call from an answer in JSON, the name must be one of the functions'.
    """

    TAG: Final = "<|python_tag|>"

    def __init__(self, functions: Collection[str]) -> None:
        super().__init__()
        self._functions = functions
        self._is_text = False
        self._skipped = ""

    def push(self, text: str) -> list[Delta]:
        """See `ToolParser`."""
        self._held += text
        found: list[Delta] = []
        while self._held and not self._is_text:
            if self._reader is None and not self._open():
                return found
            if self._reader is not None:
                found += self._within(self._reader)
        text, self._held = self._held, ""
        return found + self._text(text)

    def finish(self) -> list[Delta]:
        """See `ToolParser`."""
        found = self._unfinished(self._skipped)
        held, self._held = self._held, ""
        return found + ([] if self._count else self._text(held))

    def _open(self) -> bool:
        """Look for a call's beginning; returns whether it is clear what follows."""
        rest = self._held.lstrip("; \t\r\n" if self._count else None)
        rest = rest.removeprefix(self.TAG).lstrip()
        if rest.startswith("{"):
            self._skipped = self._held[: len(self._held) - len(rest)]
            self._held = rest
            self._begin(CallReader(names=self._functions))
            return True
        self._is_text = bool(rest) and not self.TAG.startswith(rest)
        return self._is_text

    def _within(self, reader: CallReader) -> list[Delta]:
        found = self._read(reader)
        if reader.malformed:
            found += self._unfinished(self._skipped)
            self._is_text = True
        elif reader.done:
            self._end()
        return found


class MistralParser(_Calls):
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, and the later `[TOOL_CALLS]name[ARGS]{}`."""

    BEGIN: Final = "[TOOL_CALLS]"

    def __init__(self) -> None:
        super().__init__()
        self._marker = ""  # what has been read of a call's beginning, from its marker on
        self._in_list = False

    def push(self, text: str) -> list[Delta]:
        """See `ToolParser`."""
        self._held += text
        found: list[Delta] = []
        while self._held:
            before = (self._held, self._marker, self._reader)
            if self._reader is not None:
                found += self._within(self._reader)
            elif self._marker:
                found += self._open()
            else:
                found += self._outside()
            if (self._held, self._marker, self._reader) == before:
                break
        return found

    def finish(self) -> list[Delta]:
        """See `ToolParser`."""
        found = self._unfinished(self._marker)
        held = "" if self._in_list else self._marker + self._held
        self._held = self._marker = ""
        return found + self._text(held)

    def _outside(self) -> list[Delta]:
        place = self._held.find(self.BEGIN)
        if place >= 0:
            text, self._held = self._held[:place].rstrip(), self._held[place + len(self.BEGIN) :]
            self._marker = self.BEGIN
            return self._text(text)
        return self._text(self._certain(self.BEGIN))

    def _open(self) -> list[Delta]:
        """Read what stands between the marker, or the last call of a list, and the next call."""
        rest = self._held.lstrip(" \t\r\n," if self._in_list else None)
        if self._in_list and rest.startswith("]"):
            self._held, self._marker, self._in_list = rest[1:], "", False
        elif not self._in_list and rest.startswith("["):
            self._marker += self._held[: len(self._held) - len(rest) + 1]
            self._held, self._in_list = rest[1:], True
        elif rest.startswith("{"):
            self._held = rest
            self._begin(CallReader())
        elif not self._in_list and "{" in rest:
            return self._open_named(rest)
        elif (self._in_list and rest) or len(rest) > _PREAMBLE:
            return self._give_up()
        return []

    def _open_named(self, rest: str) -> list[Delta]:
        preamble = rest[: rest.index("{")]
        match = _MISTRAL_NAME.fullmatch(preamble)
        if match is None:
            return self._give_up()
        self._marker += preamble
        self._held = rest[len(preamble) :]
        self._begin(CallReader(match[1]))
        return []

    def _give_up(self) -> list[Delta]:
        """Take a marker that no call follows for text."""
        text, self._marker = self._marker, ""
        self._in_list = False
        return self._text(text)

    def _within(self, reader: CallReader) -> list[Delta]:
        found = self._read(reader)
        if reader.malformed:
            found += self._unfinished(self._marker)
            self._marker, self._in_list = "", False
        elif reader.done:
            self._end()
            self._marker = self._marker if self._in_list else ""
        return found


def tool_parser(name: str, functions: Collection[str]) -> ToolParser:
    """Return the parser of a format, by its name on the model's card.

    :raises KeyError: there is none of this name.
    """
    makers: dict[str, Callable[[], ToolParser]] = {
        "hermes": HermesParser,
        "mistral": MistralParser,
        "llama3_json": lambda: LlamaParser(functions),
    }
    return makers[name]()
