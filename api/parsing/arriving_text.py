"""A text that arrives in pieces, and the steps by which a dialect reads it.

A dialect is a generator: straight code that reads a text and is suspended when it needs more of
it. What a step decides depends on the text alone, never on how the text was cut: each one waits
until any longer text would lead to the same decision.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, TypeVar

from api.parsing.markers import unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Step = Generator[None, None, T]

LONGEST_BLANKS: Final = 64
"""White space within a call's syntax, after which the text is no call."""

LONGEST_WORD: Final = 256
"""Characters of a function's name, of a parameter's, or of a number."""

NAME: Final = re.compile(r"[\w.-]")
"""A character of a function's name."""


class Malformed(Exception):
    """What was read cannot be a call."""


class ArrivingText:
    """What has arrived, how far it was read, and a mark to go back to."""

    def __init__(self) -> None:
        self.ended = False
        self._text = ""
        self._at = 0
        self._mark: int | None = None

    @property
    def unread(self) -> str:
        """What has come and was not read."""
        return self._text[self._at :]

    def feed(self, text: str) -> None:
        """Append text; forgets what was read and can no longer turn out to be content."""
        start = self._at if self._mark is None else self._mark
        if start:
            self._text = self._text[start:]
            self._at -= start
            self._mark = None if self._mark is None else 0
        self._text += text

    def more(self) -> Step[bool]:
        """Wait for text; returns whether there may be some."""
        if self.ended:
            return False
        yield
        return True

    def peek(self) -> Step[str]:
        """Return the next character, unread; empty at the end."""
        while self._at >= len(self._text):
            if not (yield from self.more()):
                return ""
        return self._text[self._at]

    def peek_at(self, place: int) -> Step[str]:
        """Return the character `place` characters on, unread; empty at the end."""
        while self._at + place >= len(self._text):
            if not (yield from self.more()):
                return ""
        return self._text[self._at + place]

    def ahead(self, *markers: str) -> Step[str]:
        """Return the longest of `markers` that comes next, unread; empty if none does."""
        longest = max(map(len, markers))
        while True:
            rest = self._text[self._at : self._at + longest]
            undecided = any(
                len(marker) > len(rest) and marker.startswith(rest) for marker in markers
            )
            if not undecided or not (yield from self.more()):
                return max(
                    (marker for marker in markers if rest.startswith(marker)), key=len, default=""
                )

    def skip(self, *markers: str) -> Step[str]:
        """Read over one of `markers` if it comes next, and return it."""
        marker = yield from self.ahead(*markers)
        self._at += len(marker)
        return marker

    def expect(self, *markers: str) -> Step[str]:
        """Read over one of `markers`.

        :raises Malformed: another text comes next.
        """
        marker = yield from self.skip(*markers)
        if not marker:
            raise Malformed
        return marker

    def blanks(self, also: str = "") -> Step[None]:
        """Read over white space, and the characters of `also`.

        :raises Malformed: there is more of it than any template writes.
        """
        for _ in range(LONGEST_BLANKS):
            character = yield from self.peek()
            if not character or not (character.isspace() or character in also):
                return
            self._at += 1
        raise Malformed

    def word(self, pattern: re.Pattern[str], longest: int = LONGEST_WORD) -> Step[str]:
        """Read characters as long as `pattern` matches them one by one, at least one.

        :raises Malformed: there is none, or more than `longest`.
        """
        characters: list[str] = []
        while (character := (yield from self.peek())) and pattern.fullmatch(character):
            characters.append(character)
            self._at += 1
            if len(characters) > longest:
                raise Malformed
        if not characters:
            raise Malformed
        return "".join(characters)

    def until(self, *markers: str, emit: Callable[[str], None]) -> Step[str]:
        """Emit text up to one of `markers`, which is read over and returned; empty at the end."""
        pattern = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))
        while True:
            match = pattern.search(self._text, self._at)
            end = unfinished(self._text, self._at, markers)
            # A match may be the beginning of a longer marker that is not whole yet.
            if match is not None and (match.start() < end or self.ended):
                self._emit(match.start(), emit)
                self._at = match.end()
                return match.group()
            self._emit(end, emit)
            if not (yield from self.more()):
                match = pattern.search(self._text, self._at)
                if match is None:
                    self._emit(len(self._text), emit)
                    return ""

    def run(self, stop: re.Pattern[str], emit: Callable[[str], None]) -> Step[str]:
        """Emit text up to a character that `stop` matches, unread, which is returned."""
        while True:
            match = stop.search(self._text, self._at)
            self._emit(len(self._text) if match is None else match.start(), emit)
            if match is not None:
                return match.group()
            if not (yield from self.more()):
                return ""

    def advance(self, count: int = 1) -> None:
        """Read over characters that a step has shown."""
        self._at += count

    def _emit(self, end: int, emit: Callable[[str], None]) -> None:
        if end > self._at:
            text, self._at = self._text[self._at : end], end
            emit(text)

    def ahead_after_blanks(self, *markers: str) -> Step[tuple[int, str]]:
        """Return how much white space comes next, and which of `markers` behind it; all unread."""
        space = 0
        while space < LONGEST_BLANKS and (yield from self.peek_at(space)).isspace():
            space += 1
        longest = max(map(len, markers))
        while True:
            start = self._at + space
            rest = self._text[start : start + longest]
            undecided = any(
                len(marker) > len(rest) and marker.startswith(rest) for marker in markers
            )
            if not undecided or not (yield from self.more()):
                hits = (marker for marker in markers if rest.startswith(marker))
                return space, max(hits, key=len, default="")

    def skip_after_blanks(self, *markers: str) -> Step[str]:
        """Read over white space and one of `markers`, if that is what comes next, and return it."""
        space, marker = yield from self.ahead_after_blanks(*markers)
        if marker:
            self._at += space + len(marker)
        return marker

    def remaining(self, emit: Callable[[str], None]) -> Step[None]:
        """Emit all that follows."""
        while True:
            self._emit(len(self._text), emit)
            if not (yield from self.more()):
                return

    # -- what cannot be decided yet

    def mark(self, back: int = 0) -> None:
        """Remember the place, `back` characters ago: what follows may turn out to be content."""
        self._mark = self._at - back

    def forget_mark(self) -> None:
        """What was read since the mark is no content."""
        self._mark = None

    def since_mark(self) -> str:
        """Return what was read since the mark."""
        return "" if self._mark is None else self._text[self._mark : self._at]

    def go_back(self) -> None:
        """Read again from the mark on."""
        if self._mark is not None:
            self._at, self._mark = self._mark, None
