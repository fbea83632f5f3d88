"""Gemma 3 has no format of its own: Google's guide has it write Python, or JSON, in a fence or bare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing import json_values, python_values
from api.parsing.arriving_text import Malformed
from api.parsing.dialects import pythonic

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

TOOL_CODE: Final = "```tool_code"
JSON: Final = "```json"
FENCE: Final = "```"


def read(source: Source) -> Step[None]:
    """Parse a list or an object at the beginning, and fences anywhere; see `Dialect`."""
    match (yield from _first(source)):
        case "[":
            yield from pythonic.leading_list(source)
        case "{":
            source.mark()
            try:
                yield from source.blanks()
                yield from json_values.call(source, source.functions)
            except Malformed:
                source.give_up()
        case _:
            pass
    while marker := (yield from source.text(TOOL_CODE, JSON)):
        try:
            yield from source.blanks()
            if marker == JSON:
                yield from json_values.call(source, source.functions)
            else:
                yield from _statements(source)
        except Malformed:
            source.give_up()
        else:
            yield from source.skip_after_blanks(FENCE)


def _first(source: Source) -> Step[str]:
    position = 0
    while (character := (yield from source.peek_at(position))).isspace() and position < _INDENT:
        position += 1
    return character


_INDENT: Final = 16


def _statements(source: Source) -> Step[None]:
    """Read calls one below the other, in a list, or printed."""
    while True:
        if (yield from source.ahead("[")):
            yield from pythonic.calls(source, source.functions)
        else:
            printed = yield from source.skip("print(")
            yield from python_values.call(source, source.functions)
            if printed:
                yield from source.skip_after_blanks(")")
        source.mark()
        yield from source.blanks()
        if (yield from source.ahead(FENCE)) or not (yield from source.peek()):
            source.forget_mark()
            return
