"""A model's reasoning, split from its answer by the model's own markers."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from api.parsing.deltas import Content, Thought
from api.parsing.markers import suspect, trailing_space

if TYPE_CHECKING:
    from collections.abc import Sequence


class _State(Enum):
    BEGINNING = 1
    INSIDE = 2
    AFTER = 3
    ANSWER = 4


class ReasoningSplitter:
    """Splits `<think>...</think>` off a text's beginning; without markers all is the answer.

    White space around the markers belongs to neither part.
    """

    def __init__(self, markers: Sequence[str]) -> None:
        self._begin, self._end = markers or ("", "")
        self._state = _State.BEGINNING if markers else _State.ANSWER
        self._held = ""
        self._told = False

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within the reasoning."""
        return self._state is _State.INSIDE

    def push(self, text: str) -> list[Content | Thought]:
        """Return what is certain after one more piece."""
        if self._state is _State.ANSWER:
            return [Content(text)] if text else []
        self._held += text
        found: list[Content | Thought] = []
        if self._state is _State.BEGINNING:
            self._look_for_begin()
        if self._state is _State.INSIDE:
            found += self._inside()
        if self._state is _State.AFTER:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.ANSWER
        if self._state is _State.ANSWER and self._held:
            found.append(Content(self._held))
            self._held = ""
        return found

    def finish(self) -> list[Content | Thought]:
        """Return what was held back: the text has ended."""
        held, self._held = self._held, ""
        if not held or self._state is _State.AFTER:
            return []
        return [Thought(held)] if self._state is _State.INSIDE else [Content(held)]

    def _look_for_begin(self) -> None:
        text = self._held.lstrip()
        if text.startswith(self._begin):
            self._state = _State.INSIDE
            self._held = text[len(self._begin) :]
        elif not self._begin.startswith(text):
            self._state = _State.ANSWER

    def _inside(self) -> list[Content | Thought]:
        if not self._told:
            self._held = self._held.lstrip()
        place = self._held.find(self._end)
        if place >= 0:
            thought = self._held[:place].rstrip()
            self._held = self._held[place + len(self._end) :]
            self._state = _State.AFTER
        else:
            kept = suspect(self._held, self._end)
            certain = self._held[: len(self._held) - kept]
            kept += trailing_space(certain)
            thought = self._held[: len(self._held) - kept]
            self._held = self._held[len(self._held) - kept :]
        self._told = self._told or bool(thought)
        return [Thought(thought)] if thought else []
