"""DeepSeek's tokens around calls: V3 and R1 with JSON in a fence, V3.1 with bare JSON."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import NAME, Malformed
from api.parsing.sections import read_sections

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

CALLS_BEGIN: Final = "<｜tool▁calls▁begin｜>"
CALLS_END: Final = "<｜tool▁calls▁end｜>"
CALL_BEGIN: Final = "<｜tool▁call▁begin｜>"
CALL_END: Final = "<｜tool▁call▁end｜>"
SEPARATOR: Final = "<｜tool▁sep｜>"
TYPE: Final = "function"
FENCE: Final = "```"

_LANGUAGE: Final = re.compile(r"\w")


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    yield from read_sections(source, (CALLS_BEGIN, CALLS_END), CALL_BEGIN, _call)


def _call(source: Source) -> Step[None]:
    yield from source.blanks()
    name = yield from source.word(NAME)
    yield from source.blanks()
    yield from source.expect(SEPARATOR)
    yield from source.blanks()
    is_fenced = False
    if name == TYPE and (yield from source.peek()) != "{":
        name = yield from source.word(NAME)
        yield from source.blanks()
        if (yield from source.skip(FENCE)):
            is_fenced = True
            if (yield from source.peek()).isalpha():
                yield from source.word(_LANGUAGE)
            yield from source.blanks()
    if (yield from source.peek()) != "{":
        raise Malformed
    source.begin_call(name)
    yield from json_values.container(source, source.arguments)
    if is_fenced:
        yield from source.skip_after_blanks(FENCE)
    yield from source.skip_after_blanks(CALL_END)
