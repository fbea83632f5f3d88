"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopMatcher:
    """Cuts a text at the first stop string and holds back what may become one.

    The first is the one that is complete first; of two that end at the same character, the longer
    one. So the result does not depend on the borders between pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held_back = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """Return the text that is certain to be emitted; empty once a stop string has matched."""
        if not self._stops:
            return piece
        if self.matched is not None or not piece:
            return ""
        text = self._held_back + piece
        match = self._first_match(text)
        if match is not None:
            start, self.matched = match
            self._held_back = ""
            return text[:start]
        held_back = self._partial_length(text)
        self._held_back = text[len(text) - held_back :]
        return text[: len(text) - held_back]

    def flush(self) -> str:
        """Return the text held back: the text has ended."""
        held_back, self._held_back = self._held_back, ""
        return held_back

    def _first_match(self, text: str) -> tuple[int, str] | None:
        first: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                candidate = (start + len(stop), start, stop)
                first = candidate if first is None else min(first, candidate)
        return None if first is None else first[1:]

    def _partial_length(self, text: str) -> int:
        """Return the length of the longest suffix of `text` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
