"""One call of a tool, a JSON object that arrives in pieces."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Collection

_PREFIX: Final = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*'
)
_LONGEST_BLANKS: Final = 64
"""White space before an object, after which none is to be expected."""


class CallReader:
    """Reads `{"name": ..., "arguments": {...}}`, or, with `name` known, the arguments alone.

    Arguments are told as they come where the name comes first, which is how models write; any
    other order is told at the object's end. `raw` is all that was read. It is `malformed` as soon
    as it cannot be a call, of one of `names` if they are given.
    """

    def __init__(self, name: str | None = None, *, names: Collection[str] | None = None) -> None:
        self._names = names
        self.raw = ""
        self.name = name
        self.done = False
        self.malformed = False
        self._alone = name is not None
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._arguments: list[str] = []
        self._begun = self._ended = False

    @property
    def begun(self) -> bool:
        """Whether the name is known and arguments have begun, so that the call can be told of."""
        return self._begun

    def push(self, text: str) -> str:
        """Read on; return what is left after the object's end."""
        for place, character in enumerate(text):
            self._take(character)
            if self.done or self.malformed:
                return text[place + 1 :]
        return ""

    def arguments(self) -> str:
        """Return the arguments that have come since the last time."""
        pieces = "".join(self._arguments)
        self._arguments.clear()
        return pieces

    def _take(self, character: str) -> None:
        self.raw += character
        if self._depth == 0:
            self._open(character)
            return
        if self._begun and not self._ended:
            self._arguments.append(character)
        if self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
            self._look_for_arguments(character)
        elif character in "}]":
            self._depth -= 1
            self._close()

    def _open(self, character: str) -> None:
        if character == "{":
            self._depth = 1
            if self._alone:
                self._begun = True
                self._arguments.append(character)
        elif not character.isspace() or len(self.raw) > _LONGEST_BLANKS:
            self.malformed = True

    def _look_for_arguments(self, character: str) -> None:
        if self._begun or character != "{" or self._depth != 2:  # noqa: PLR2004 - within the object
            return
        match = _PREFIX.fullmatch(self.raw[:-1])
        if match is not None:
            self.name = _text(match[1])
            self.malformed = not self._is_known(self.name)
            if not self.malformed:
                self._begun = True
                self._arguments.append(character)

    def _is_known(self, name: object) -> bool:
        return isinstance(name, str) and bool(name) and (self._names is None or name in self._names)

    def _close(self) -> None:
        if self._begun and self._depth == (0 if self._alone else 1):
            self._ended = True
        if self._depth == 0:
            self.done = True
            if not self._begun:
                self._read_whole()

    def _read_whole(self) -> None:
        """The object has ended, and its name did not come first."""
        try:
            call: Any = parse_json(self.raw)
        except ValueError:
            call = None
        fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
        name = fields.get("name")
        arguments: Any = fields.get("arguments", fields.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _object(arguments)
        if not self._is_known(name) or not isinstance(arguments, dict):
            self.done, self.malformed = False, True
            return
        self.name = cast("str", name)
        self._begun = self._ended = True
        self._arguments.append(json.dumps(arguments, ensure_ascii=False))


def _text(quoted: str) -> str | None:
    try:
        return str(parse_json(quoted))
    except ValueError:
        return None


def _object(text: str) -> Any:
    """Return what JSON in a string holds: some models quote their arguments twice."""
    try:
        return parse_json(text or "{}")
    except ValueError:
        return None
