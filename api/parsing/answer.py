"""An answer's text as deltas: reasoning first, then calls and content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.parsing import dialects
from api.parsing.deltas import CallArguments, CallBegin, Delta
from api.parsing.parameters import types_of
from api.parsing.reasoning import read as read_reasoning
from api.parsing.reasoning import read_wrapping
from api.parsing.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from api.parsing.arriving_text import Step

Functions = dict[str, dict[str, list[str]]]
"""Functions that may be called, each with its parameters and the JSON types that they allow."""

_WRAPPING: Final = 2
"""Where, in the markers of a model, those around its answer begin."""


def functions_of(tools: Iterable[Mapping[str, Any]], format_name: str) -> Functions:
    """Return the functions of OpenAI's tools, with as much of their schemas as the dialect needs."""
    dialect = dialects.of(format_name)
    needs_types = dialect is not None and dialect.untyped
    functions = [tool["function"] for tool in tools]
    return {
        function["name"]: types_of(function.get("parameters")) if needs_types else {}
        for function in functions
    }


class AnswerParser:
    """Parses one answer.

    `reasoning` are the two markers of the reasoning and, behind them, the two around an answer, if
    the model has such. `functions` are those that it may call (see `functions_of`); without any, no
    call is looked for. Calls beyond `most_calls` are left out.
    """

    def __init__(
        self,
        *,
        reasoning: Sequence[str] = (),
        format_name: str = "",
        functions: Functions | None = None,
        most_calls: int | None = None,
    ) -> None:
        self._source = Source(functions)
        self._most_calls = most_calls
        self.calls = 0
        """Calls that have begun so far."""
        self.reasoning_tokens = 0
        """Tokens of the reasoning so far, its markers among them."""
        self._steps = self._read(tuple(reasoning), format_name)
        next(self._steps)

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends within the reasoning."""
        return self._source.thinking

    def push(self, text: str, tokens: int = 0) -> list[Delta]:
        """Return what is certain after one more piece of the text, made of so many tokens."""
        self._source.thought_since = self._source.thinking
        self._source.feed(text)
        next(self._steps)
        if self._source.thought_since:
            self.reasoning_tokens += tokens
        return self._counted(self._source.taken_deltas())

    def finish(self) -> list[Delta]:
        """Return the withheld text: the answer has ended."""
        self._source.ended = True
        for _ in self._steps:
            pass
        self._source.finish()
        return self._counted(self._source.taken_deltas())

    def _read(self, markers: tuple[str, ...], format_name: str) -> Step[None]:
        source = self._source
        dialect = dialects.of(format_name) if format_name else None
        if dialect is not None and dialect.has_channels:
            yield from dialect.read(source)
            return
        if markers:
            yield from read_reasoning(source, *markers[:_WRAPPING])
        if len(markers) > _WRAPPING:
            yield from read_wrapping(source, *markers[_WRAPPING:])
        if dialect is not None and source.functions:
            yield from dialect.read(source)
        elif source.wrapping_end:
            yield from source.rest()
        else:
            yield from source.passed_on()

    def _counted(self, deltas: list[Delta]) -> list[Delta]:
        deltas_kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, (CallBegin, CallArguments)):
                if self._most_calls is not None and delta.index >= self._most_calls:
                    continue
                self.calls = delta.index + 1
            deltas_kept.append(delta)
        return deltas_kept
