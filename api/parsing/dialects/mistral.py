"""`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, and the later `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import NAME, Malformed
from api.parsing.dialects import marked_json

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

BEGIN: Final = "[TOOL_CALLS]"
CALL_ID: Final = "[CALL_ID]"
ARGUMENTS: Final = "[ARGS]"

_ID: Final = re.compile(r"\w")


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    while (yield from source.text(BEGIN)):
        try:
            yield from source.blanks()
            match (yield from source.peek()):
                case "[":
                    yield from marked_json.calls(source)
                case "{":
                    yield from json_values.call(source)
                case _:
                    yield from _named(source)
        except Malformed:
            source.give_up()


def _named(source: Source) -> Step[None]:
    name = yield from source.word(NAME)
    yield from source.blanks()
    if (yield from source.skip(CALL_ID)):
        yield from source.blanks()
        yield from source.word(_ID)
        yield from source.blanks()
    if (yield from source.skip(ARGUMENTS)):
        yield from source.blanks()
    if (yield from source.peek()) != "{":
        raise Malformed
    source.begin_call(name)
    yield from json_values.container(source, source.arguments)
