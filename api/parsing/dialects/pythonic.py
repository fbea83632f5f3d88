"""`[f(city="Paris"), g()]` and nothing before it (Llama 3.2 and 4, Gemma 3, ToolACE)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing import python_values
from api.parsing.arriving_text import Malformed

if TYPE_CHECKING:
    from collections.abc import Collection

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

TAGS: Final = ("<|python_tag|>", "<|python_start|>")
END_TAG: Final = "<|python_end|>"


def read(source: Source) -> Step[None]:
    """See `Dialect`. The names must be of the functions: a list may be an answer as well."""
    yield from leading_list(source)
    yield from source.rest()


def leading_list(source: Source) -> Step[None]:
    """Read a list of calls, if the text begins with one."""
    source.mark()
    try:
        yield from source.blanks()
        if (yield from source.skip(*TAGS)):
            yield from source.blanks()
        yield from calls(source, source.functions)
    except Malformed:
        source.give_up()
    else:
        yield from source.skip_after_blanks(END_TAG)


def calls(source: Source, known: Collection[str] | None) -> Step[None]:
    """Read a list of calls.

    :raises Malformed: it is none, or empty.
    """
    yield from source.expect("[")
    yield from source.blanks()
    while True:
        yield from python_values.call(source, known)
        source.mark()
        yield from source.blanks()
        if (yield from source.skip("]")):
            break
        yield from source.expect(",")
        yield from source.blanks()
    source.forget_mark()
