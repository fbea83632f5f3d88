"""A function's name on a line, then its arguments: JSON (GLM-4), or Python in a fence (ChatGLM3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.parsing import json_values, python_values
from api.parsing.arriving_text import NAME, Malformed

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source

PYTHON: Final = "```python"
CALL: Final = "tool_call("
FENCE: Final = "```"
OBSERVATION: Final = "<|observation|>"


def read(source: Source) -> Step[None]:
    """Read calls that stand first; see `Dialect`. The names must be of the functions."""
    try:
        while (yield from source.peek()):
            source.mark()
            yield from source.blanks()
            yield from _call(source)
            yield from source.skip_after_blanks(OBSERVATION)
    except Malformed:
        if source.calls:
            source.go_back()
        else:
            source.give_up()
    yield from source.rest()


def _call(source: Source) -> Step[None]:
    name = yield from source.word(NAME)
    if name not in source.functions:
        raise Malformed
    yield from source.blanks()
    if (yield from source.ahead("{")):
        source.begin_call(name)
        yield from json_values.container(source, source.arguments)
        return
    yield from source.expect(PYTHON)
    yield from source.blanks()
    yield from source.expect(CALL)
    yield from python_values.arguments(source, name, ")")
    yield from source.skip_after_blanks(FENCE)
