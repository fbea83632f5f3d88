"""The text of one sequence's answer: detokenising, then stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.text.detokenizer import Detokenizer
from penstock.engine.text.stop_strings import StopMatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.text.detokenizer import DecodeCache


class Answer:
    """The text that was emitted, and the text that is held back."""

    def __init__(self, cache: DecodeCache, context: Sequence[int], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(cache, context)
        self._matcher = StopMatcher(stops)

    @property
    def stop(self) -> str | None:
        """The stop string that has ended the text, if one has."""
        return self._matcher.matched

    def push(self, token_id: int, *, may_stop: bool) -> str:
        """Return the text that this token completes.

        Without `may_stop` (before `min_tokens`) stop strings pass as ordinary text.
        """
        piece = self._detokenizer.push(token_id)
        return self._matcher.push(piece) if may_stop else piece

    def finish(self) -> str:
        """Return the text held back, or nothing if a stop string has ended the text."""
        if self._matcher.matched is not None:
            return ""
        return self._matcher.push(self._detokenizer.flush()) + self._matcher.flush()
