"""An answer's text as it arrives, and the steps by which a dialect reads it.

A dialect is a generator: straight code that reads from a `Source` and is suspended where it needs
more text. What a step decides depends on the text alone, never on how the text was cut: each one
waits until any longer text would lead to the same decision.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, TypeVar

from api.parsing.deltas import CallArguments, CallBegin, Content, Delta, Thought, joined
from api.parsing.markers import unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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


class Source:
    """The text, how far it was read, and the deltas made of it.

    `functions` are those that may be called, each with its parameters and the JSON types that they
    allow (see `api.parsing.parameters`); dialects without types of their own need them.
    """

    def __init__(self, functions: dict[str, dict[str, list[str]]] | None = None) -> None:
        self.functions = functions or {}
        self.ended = False
        self.calls = 0
        """Calls that have begun."""
        self.thinking = False
        """Whether the text read so far ends within the reasoning."""
        self.thought_since = False
        """Whether there was any reasoning since this was last set to false."""
        self.wrapping_end = ""
        """What ends an answer that stands between markers of its own; it is no content."""
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._space = ""
        self._deltas: list[Delta] = []

    @property
    def unread(self) -> str:
        """What has come and was not read."""
        return self._text[self._at :]

    def feed(self, text: str) -> None:
        """Append text; forgets what was read and can no longer turn out to be content."""
        kept = self._at if self._mark is None else self._mark
        if kept:
            self._text = self._text[kept:]
            self._at -= kept
            self._mark = None if self._mark is None else 0
        self._text += text

    def taken_deltas(self) -> list[Delta]:
        """Return the deltas since the last time, neighbours of one kind joined."""
        deltas, self._deltas = self._deltas, []
        return joined(deltas)

    # -- reading

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
            undecided = any(len(one) > len(rest) and one.startswith(rest) for one in markers)
            if not undecided or not (yield from self.more()):
                return max((one for one in markers if rest.startswith(one)), key=len, default="")

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
            place = unfinished(self._text, self._at, markers)
            # A match may be the beginning of a longer marker that is not whole yet.
            if match is not None and (match.start() < place or self.ended):
                self._emit(match.start(), emit)
                self._at = match.end()
                return match.group()
            self._emit(place, emit)
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

    def text(self, *begins: str) -> Step[str]:
        """Emit content up to what begins a call, which is read over, marked and returned."""
        while True:
            ends = (self.wrapping_end,) if self.wrapping_end else ()
            marker = yield from self.until(*begins, *ends, emit=self.content)
            if marker and marker in ends:
                self.wrapping_end = ""
                continue
            self.mark(back=len(marker))
            return marker

    def rest(self) -> Step[None]:
        """Emit all that follows as content."""
        if self.wrapping_end:
            yield from self.until(self.wrapping_end, emit=self.content)
        while True:
            self._emit(len(self._text), self.content)
            if not (yield from self.more()):
                return

    def passed_on(self) -> Step[None]:
        """Emit all that follows as content at once: no call can come, so no white space waits."""
        self.forget_mark()
        while True:
            if self._at < len(self._text):
                self._deltas.append(Content(self._space + self._text[self._at :]))
                self._at, self._space = len(self._text), ""
            if not (yield from self.more()):
                return

    def ahead_after_blanks(self, *markers: str) -> Step[tuple[int, str]]:
        """Return how much white space comes next, and which of `markers` behind it; all unread."""
        space = 0
        while space < LONGEST_BLANKS and (yield from self.peek_at(space)).isspace():
            space += 1
        longest = max(map(len, markers))
        while True:
            start = self._at + space
            rest = self._text[start : start + longest]
            undecided = any(len(one) > len(rest) and one.startswith(rest) for one in markers)
            if not undecided or not (yield from self.more()):
                hits = (one for one in markers if rest.startswith(one))
                return space, max(hits, key=len, default="")

    def skip_after_blanks(self, *markers: str) -> Step[str]:
        """Read over white space and one of `markers`, if that is what comes next, and return it."""
        space, marker = yield from self.ahead_after_blanks(*markers)
        if marker:
            self._at += space + len(marker)
        return marker

    # -- what cannot be decided yet

    def mark(self, back: int = 0) -> None:
        """Remember the place, `back` characters ago: what follows may turn out to be content."""
        self._mark = self._at - back

    def forget_mark(self) -> None:
        """What was read since the mark is no content."""
        self._mark = None

    def think(self, inside: bool) -> None:
        """Take note that reasoning begins or ends here."""
        self.thinking = inside
        self.thought_since = True

    def give_up(self) -> None:
        """Take what was read since the mark for content, exactly as it was written."""
        if self._mark is not None:
            text, self._mark = self._text[self._mark : self._at], None
            self.content(text)

    def give_up_rest(self) -> None:
        """Like `give_up`, behind a call.

        What the text's end has cut off is no content, and white space alone is read again.
        """
        if self.ended:
            self._mark, self._at = None, len(self._text)
        elif not self.since_mark().strip():
            self.go_back()
        self.give_up()

    def since_mark(self) -> str:
        """Return what was read since the mark."""
        return "" if self._mark is None else self._text[self._mark : self._at]

    def go_back(self) -> None:
        """Read again from the mark on."""
        if self._mark is not None:
            self._at, self._mark = self._mark, None

    # -- deltas

    def content(self, text: str) -> None:
        """Add to the answer's content. White space waits for what follows: before a call it is none."""
        text = self._space + text
        certain = text.rstrip()
        self._space = text[len(certain) :]
        if certain:
            self._deltas.append(Content(certain))

    def thought(self, text: str) -> None:
        """Add to the reasoning."""
        if text:
            self._deltas.append(Thought(text))

    def begin_call(self, name: str, known: Collection[str] | None = None) -> None:
        """Begin a call; from now on what was read can no longer become content.

        :raises Malformed: the name is empty, or is not in `known`.
        """
        if not name or (known is not None and name not in known):
            raise Malformed
        self._mark, self._space = None, ""
        self._deltas.append(CallBegin(self.calls, name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """Add to the arguments of the call that began last."""
        if text:
            self._deltas.append(CallArguments(self.calls - 1, text))

    def finish(self) -> None:
        """Emit the white space that waited; after calls it is none."""
        if self._space and not self.calls:
            self._deltas.append(Content(self._space))
        self._space = ""
