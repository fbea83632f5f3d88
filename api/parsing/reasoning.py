"""A model's reasoning, split from its answer by the model's own markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source


class Trimmed:
    """Passes text on without the white space at its beginning and end."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._space = ""
        self.begun = False

    def __call__(self, text: str) -> None:
        """Take the next piece."""
        text = self._space + text
        if not self.begun:
            text = text.lstrip()
        certain = text.rstrip()
        self._space = text[len(certain) :]
        if certain:
            self.begun = True
            self._emit(certain)


def read(source: Source, begin: str, end: str) -> Step[None]:
    """Read `<think>...</think>` if the text begins with it; white space around it is dropped.

    Reasoning that never ends is reasoning.
    """
    source.mark()
    yield from _spaces(source)
    if not (yield from source.skip(begin)):
        source.go_back()
        return
    source.forget_mark()
    source.think(True)
    if (yield from source.until(end, emit=Trimmed(source.thought))):
        source.think(False)
        yield from _spaces(source)


def read_wrapping(source: Source, begin: str, end: str) -> Step[None]:
    """Read over what begins an answer, such as `<response>`; what ends it is then no content."""
    source.mark()
    yield from _spaces(source)
    if (yield from source.skip(begin)):
        source.forget_mark()
        source.wrapping_end = end
        yield from _spaces(source)
    else:
        source.go_back()


def _spaces(source: Source) -> Step[None]:
    while (yield from source.peek()).isspace():
        source.advance()
