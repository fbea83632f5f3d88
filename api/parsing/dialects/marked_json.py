"""JSON between markers: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.parsing import json_values
from api.parsing.arriving_text import Malformed

if TYPE_CHECKING:
    from api.parsing.arriving_text import Step
    from api.parsing.source import Source


@dataclass(frozen=True, slots=True)
class MarkedJson:
    """One object, or a list of them, after any of `begins` and, if the model sends it, `second`.

    A model that forgets what `ends` its calls is forgiven.
    """

    begins: tuple[str, ...]
    ends: tuple[str, ...] = ()
    second: str = ""

    def read(self, source: Source) -> Step[None]:
        """See `Dialect`."""
        while (yield from source.text(*self.begins)):
            try:
                if self.second:
                    yield from source.skip_after_blanks(self.second)
                yield from source.blanks()
                if (yield from source.ahead("[")):
                    yield from calls(source)
                else:
                    yield from json_values.call(source)
            except Malformed:
                source.give_up()
            else:
                if self.ends:
                    yield from source.skip_after_blanks(*self.ends)


def calls(source: Source) -> Step[None]:
    """Read a list of calls.

    :raises Malformed: it holds none, or something else.
    """
    yield from source.expect("[")
    yield from source.blanks()
    while True:
        yield from json_values.call(source)
        source.mark()
        yield from source.blanks()
        if (yield from source.skip("]")):
            break
        yield from source.expect(",")
        yield from source.blanks()
    source.forget_mark()


COMMAND: Final = MarkedJson(("<|START_ACTION|>",), ("<|END_ACTION|>",))
"""Cohere's Command R7B and A: a list, with `tool_name` and `parameters`."""

GRANITE: Final = MarkedJson(("<|tool_call|>", "<tool_call>"), ("</tool_call>",))
"""IBM's Granite 3: a list that nothing ends."""

HERMES: Final = MarkedJson(("<tool_call>",), ("</tool_call>",))
"""Hermes, Qwen2.5 and 3, Granite 4, and many more: an object a pair of markers."""

INTERNLM: Final = MarkedJson(("<|action_start|>",), ("<|action_end|>",), second="<|plugin|>")
"""InternLM 2.5 and 3: an object, with `parameters` or `arguments`."""

NEMOTRON: Final = MarkedJson(("<TOOLCALL>",), ("</TOOLCALL>",))
"""NVIDIA's Nemotron Nano and Super: a list."""

PHI4: Final = MarkedJson(("<|tool_call|>", "functools"), ("<|/tool_call|>",))
"""Phi-4-mini: a list behind `functools`, or between tokens."""
