"""Calls in a section of their own, one after another, each behind a marker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.parsing.arriving_text import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source


def read_sections(
    source: Source, section: tuple[str, str], begin: str, call: Callable[[Source], Step[None]]
) -> Step[None]:
    """Read sections of calls, and calls without one; `call` reads one from behind `begin` on.

    `section` are the markers around a section. What is no call stays text.
    """
    opening, closing = section
    while marker := (yield from source.text(opening, begin)):
        try:
            if marker == opening:
                yield from source.blanks()
                yield from source.expect(begin)
            yield from call(source)
            while (yield from source.skip_after_blanks(begin)):
                source.mark(back=len(begin))
                yield from call(source)
        except Malformed:
            source.give_up()
        else:
            yield from source.skip_after_blanks(closing)
