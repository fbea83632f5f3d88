"""`<|tool_call_start|>[f(city="Paris")]<|tool_call_end|>`, or JSON in the list (LFM2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing.arriving_text import Malformed
from api.parsing.dialects import marked_json, pythonic

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

BEGIN: Final = "<|tool_call_start|>"
END: Final = "<|tool_call_end|>"

_DISTANCE: Final = 16
"""White space between a list's bracket and what it holds."""


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    while (yield from source.text(BEGIN)):
        try:
            yield from source.blanks()
            if (yield from _holds_json(source)):
                yield from marked_json.calls(source)
            else:
                yield from pythonic.calls(source, None)
        except Malformed:
            source.give_up()
        else:
            yield from source.skip_after_blanks(END)


def _holds_json(source: Source) -> Step[bool]:
    position = 1
    while (character := (yield from source.peek_at(position))).isspace() and position < _DISTANCE:
        position += 1
    return character == "{"
