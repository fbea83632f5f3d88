"""What an answer's text consists of: words, reasoning, calls of functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Words:
    """Text for the reader."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Reasoning before the answer."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function is being called; its arguments follow."""

    call_id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the JSON of the last call's arguments."""

    text: str


Part = Words | Thought | Call | Arguments


class PartReader(Protocol):
    """Reads one answer; the same pieces of text always give the same parts."""

    def feed(self, text: str) -> Sequence[Part]:
        """Return the parts that a piece of text completes."""
        ...

    def end(self) -> Sequence[Part]:
        """Return what was held back."""
        ...


class PlainReader:
    """All of the text is words."""

    def feed(self, text: str) -> Sequence[Part]:
        """Return the text."""
        return (Words(text),) if text else ()

    def end(self) -> Sequence[Part]:
        """Return nothing: nothing is held back."""
        return ()
