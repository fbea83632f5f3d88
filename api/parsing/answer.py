"""An answer's text as deltas: reasoning first, then calls and content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.parsing.deltas import CallArguments, CallBegin, Content, Delta
from api.parsing.reasoning import ReasoningSplitter
from api.parsing.tool_calls import tool_parser

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class AnswerParser:
    """Parses one answer. `functions` are the names that it may call; without any, none is looked for.

    Of calls beyond `most_calls` nothing is told.
    """

    def __init__(
        self,
        *,
        reasoning: Sequence[str] = (),
        format_name: str = "",
        functions: Collection[str] = (),
        most_calls: int | None = None,
    ) -> None:
        self._splitter = ReasoningSplitter(reasoning)
        self._tools = tool_parser(format_name, functions) if functions and format_name else None
        self._most_calls = most_calls
        self.calls = 0
        """Calls told so far."""
        self.reasoning_tokens = 0
        """Tokens of the reasoning so far, its markers among them."""

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends within the reasoning."""
        return self._splitter.inside

    def push(self, text: str, tokens: int = 0) -> list[Delta]:
        """Return what is certain after one more piece of the text, made of so many tokens."""
        was_thinking = self.thinking
        parts = self._splitter.push(text)
        if was_thinking or self.thinking:
            self.reasoning_tokens += tokens
        return self._told(parts)

    def finish(self) -> list[Delta]:
        """Return what was held back: the text has ended."""
        found = self._told(self._splitter.finish())
        if self._tools is not None:
            found += self._counted(self._tools.finish())
        return found

    def _told(self, parts: Sequence[Delta]) -> list[Delta]:
        if self._tools is None:
            return list(parts)
        found: list[Delta] = []
        for part in parts:
            found += (
                self._counted(self._tools.push(part.text)) if isinstance(part, Content) else [part]
            )
        return found

    def _counted(self, deltas: list[Delta]) -> list[Delta]:
        kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, (CallBegin, CallArguments)):
                if self._most_calls is not None and delta.index >= self._most_calls:
                    continue
                self.calls = delta.index + 1
            kept.append(delta)
        return kept
