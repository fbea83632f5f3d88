"""An answer's text as it arrives, and the deltas that a dialect makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.parsing.arriving_text import ArrivingText, Malformed
from api.parsing.deltas import CallArguments, CallBegin, Content, Delta, Thought, joined

if TYPE_CHECKING:
    from collections.abc import Collection

    from api.parsing.arriving_text import Step


class Source(ArrivingText):
    """The text, and the deltas made of it.

    `functions` are those that may be called, each with its parameters and the JSON types that they
    allow (see `api.parsing.parameters`); dialects without types of their own need them.
    """

    def __init__(self, functions: dict[str, dict[str, list[str]]] | None = None) -> None:
        super().__init__()
        self.functions = functions or {}
        self.calls = 0
        """Calls that have begun."""
        self.thinking = False
        """Whether the text read so far ends within the reasoning."""
        self.thought_since = False
        """Whether there was any reasoning since this was last set to false."""
        self.wrapping_end = ""
        """The marker that ends an answer between markers; it is not content."""
        self._space = ""
        self._deltas: list[Delta] = []

    def taken_deltas(self) -> list[Delta]:
        """Return the deltas since the last time, neighbours of one kind joined."""
        deltas, self._deltas = self._deltas, []
        return joined(deltas)

    # -- content

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
        yield from self.remaining(self.content)

    def passed_on(self) -> Step[None]:
        """Emit all that follows as content at once: no call can come, so no white space waits."""
        self.forget_mark()
        yield from self.remaining(self._pass_on)

    def _pass_on(self, text: str) -> None:
        self._deltas.append(Content(self._space + text))
        self._space = ""

    def think(self, inside: bool) -> None:
        """Note that reasoning begins or ends here."""
        self.thinking = inside
        self.thought_since = True

    def give_up(self) -> None:
        """Take what was read since the mark for content, exactly as it was written."""
        text = self.since_mark()
        self.forget_mark()
        self.content(text)

    def give_up_rest(self) -> None:
        """Like `give_up`, behind a call.

        What the text's end has cut off is no content, and white space alone is read again.
        """
        if self.ended:
            self.forget_mark()
            self.advance(len(self.unread))
        elif not self.since_mark().strip():
            self.go_back()
        self.give_up()

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
        self.forget_mark()
        self._space = ""
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
