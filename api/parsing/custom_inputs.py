"""Calls of custom tools: the JSON arguments that a model writes, read into the tool's input text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from api.parsing.deltas import CallArguments, CallBegin, Delta
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from api.parsing.answer import AnswerParser

_ESCAPES: Final = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_UNICODE: Final = 6
"""Characters of an escape by its number."""
_HIGH: Final = range(0xD800, 0xDC00)
_LOW: Final = range(0xDC00, 0xE000)
_REPLACEMENT: Final = "\ufffd"


class InputReader:
    """Reads `{"input": "..."}` piece by piece, and returns what is certain of the text.

    Arguments of another form, as a model may write that is not held to one, are read as a whole at
    their end: the one text that they hold, or else all that was written.
    """

    def __init__(self, parameter: str) -> None:
        self._beginning = re.compile(rf'\s*\{{\s*"{re.escape(parameter)}"\s*:\s*"')
        self._raw = ""
        self._held = ""
        self._is_inside = False
        self._is_closed = False

    def push(self, text: str) -> str:
        """Return the further text of the input that one more piece of the arguments makes certain."""
        self._held += text
        if not self._is_inside:
            self._raw += text
            match = self._beginning.match(self._held)
            if match is None:
                return ""
            self._is_inside = True
            self._held = self._held[match.end() :]
        return self._unescaped()

    def finish(self) -> str:
        """Return what is left: the arguments have ended."""
        if self._is_inside or not self._raw:
            return ""
        raw, self._raw = self._raw, ""
        return _only_text(raw)

    def _unescaped(self) -> str:
        pieces: list[str] = []
        position = 0
        while not self._is_closed and position < len(self._held):
            character = self._held[position]
            if character == '"':
                self._is_closed = True
            elif character == "\\":
                text, length = _escape(self._held, position)
                if not length:
                    break
                pieces.append(text)
                position += length
                continue
            else:
                pieces.append(character)
            position += 1
        self._held = "" if self._is_closed else self._held[position:]
        return "".join(pieces)


def _escape(held: str, place: int) -> tuple[str, int]:
    """Return the text of an escape and its length; 0 if it is incomplete."""
    kind = held[place + 1 : place + 2]
    if kind != "u":
        return _ESCAPES.get(kind, kind), 2 if kind else 0
    code = _code(held, place)
    if code is None:
        return "", 0
    if code in _HIGH:
        return _pair(held, place, code)
    return (_REPLACEMENT if code in _LOW else chr(code)), _UNICODE


def _pair(held: str, place: int, high: int) -> tuple[str, int]:
    """Return the character of two escapes, the first of which is not one by itself."""
    if not "\\u".startswith(held[place + _UNICODE : place + _UNICODE + 2]):
        return _REPLACEMENT, _UNICODE
    low = _code(held, place + _UNICODE)
    if low is None:
        return "", 0
    if low not in _LOW:
        return _REPLACEMENT, _UNICODE
    return chr(0x10000 + ((high - _HIGH.start) << 10) + low - _LOW.start), 2 * _UNICODE


def _code(held: str, place: int) -> int | None:
    """Return the number of an escape; None if it is incomplete."""
    digits = held[place + 2 : place + _UNICODE]
    if len(digits) < _UNICODE - 2:
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return ord(_REPLACEMENT)


def _only_text(raw: str) -> str:
    """Return the one text that arguments in JSON hold, else the arguments."""
    try:
        value: Any = parse_json(raw)
    except ValueError:
        return raw
    if isinstance(value, dict):
        values = list(cast("dict[str, Any]", value).values())
        value = values[0] if len(values) == 1 else None
    return value if isinstance(value, str) else raw


class CustomAnswerParser:
    """Parses one answer like `AnswerParser`, with the inputs of custom tools as their arguments."""

    def __init__(self, parser: AnswerParser, custom: Collection[str], parameter: str) -> None:
        """`custom` are the tools' names, `parameter` that of their one argument."""
        self._parser = parser
        self._custom = custom
        self._parameter = parameter
        self._readers: dict[int, InputReader] = {}

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self._parser.calls

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning so far, its markers among them."""
        return self._parser.reasoning_tokens

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends within the reasoning."""
        return self._parser.thinking

    def push(self, text: str, tokens: int = 0) -> list[Delta]:
        """Return what is certain after one more piece of the text, made of so many tokens."""
        return self._read(self._parser.push(text, tokens))

    def finish(self) -> list[Delta]:
        """Return the withheld text: the answer has ended."""
        return [*self._read(self._parser.finish()), *self._finished()]

    def _read(self, deltas: Sequence[Delta]) -> list[Delta]:
        deltas_: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, CallArguments) and delta.index in self._readers:
                text = self._readers[delta.index].push(delta.text)
                deltas_ += [CallArguments(delta.index, text)] if text else []
                continue
            if not isinstance(delta, CallArguments):
                deltas_ += self._finished()
            if isinstance(delta, CallBegin) and delta.name in self._custom:
                self._readers[delta.index] = InputReader(self._parameter)
            deltas_.append(delta)
        return deltas_

    def _finished(self) -> list[Delta]:
        """Return what is left of the calls that have been read."""
        rest = [(index, reader.finish()) for index, reader in self._readers.items()]
        self._readers.clear()
        return [CallArguments(index, text) for index, text in rest if text]
