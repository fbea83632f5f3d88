"""`<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}<|tool_call_end|>` (Kimi K2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import Malformed
from api.parsing.sections import read_sections

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

SECTION_BEGIN: Final = "<|tool_calls_section_begin|>"
SECTION_END: Final = "<|tool_calls_section_end|>"
CALL_BEGIN: Final = "<|tool_call_begin|>"
CALL_END: Final = "<|tool_call_end|>"
ARGUMENTS_BEGIN: Final = "<|tool_call_argument_begin|>"

_ID: Final = re.compile(r"[\w.:-]")
_NAME: Final = re.compile(r"(?:functions\.)?([\w.-]*[A-Za-z_][\w.-]*)(?::\d+)?")


def read(source: Source) -> Step[None]:
    """See `Dialect`."""
    yield from read_sections(source, (SECTION_BEGIN, SECTION_END), CALL_BEGIN, _call)


def _call(source: Source) -> Step[None]:
    yield from source.blanks()
    match = _NAME.fullmatch((yield from source.word(_ID)))
    if match is None:
        raise Malformed
    yield from source.blanks()
    yield from source.expect(ARGUMENTS_BEGIN)
    yield from source.blanks()
    if (yield from source.peek()) != "{":
        raise Malformed
    source.begin_call(match[1])
    yield from json_values.container(source, source.arguments)
    yield from source.skip_after_blanks(CALL_END)
