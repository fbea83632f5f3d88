"""`{"name": ..., "parameters": {...}}` and nothing around it (Llama 3 and 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import Malformed

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

TAGS: Final = ("<|python_tag|>", "<|python_start|>")
END_TAG: Final = "<|python_end|>"


def read(source: Source) -> Step[None]:
    """Read objects that stand first, `;` between several; see `Dialect`.

    As no marker separates a call from an answer in JSON, the name must be one of the functions'.
    """
    while True:
        source.mark()
        yield from _space(source, ";" if source.calls else "")
        if (yield from source.skip(*TAGS)):
            yield from _space(source)
        if (yield from source.peek()) != "{":
            break
        try:
            yield from json_values.call(source, source.functions)
        except Malformed:
            source.give_up()
            break
        yield from source.skip_after_blanks(END_TAG)
    if source.calls and not (yield from source.peek()):
        source.forget_mark()
    source.go_back()
    yield from source.rest()


def _space(source: Source, also: str = "") -> Step[None]:
    while (character := (yield from source.peek())) and (character.isspace() or character in also):
        source.advance()
