"""Values that stand between tags as they are, and end at a tag that may stand in them as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.parsing.arriving_text import Malformed
from api.parsing.json_values import escaped
from api.parsing.parameters import STRING, as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from api.parsing.arriving_text import Step
    from api.parsing.source import Source


@dataclass(frozen=True, slots=True)
class Ending:
    """The tag that ends a value, if one of `followers` or the text's end comes behind it.

    Before anything else it is part of the value: models write code that holds such tags. One that
    `is_kept` is left unread.
    """

    tag: str
    followers: tuple[str, ...]
    is_kept: bool = False


def read(
    source: Source, types: list[str] | None, endings: Sequence[Ending], *, own_lines: bool = False
) -> Step[None]:
    """Read a value and emit its JSON as the arguments of the call that began last.

    Text is emitted as it comes; other types when they are whole. With `own_lines` the first and
    the last line break are the format's.

    :raises Malformed: the text ends within it.
    """
    if types == [STRING]:
        source.arguments('"')
        text = _Lines(lambda piece: source.arguments(escaped(piece)), own_lines=own_lines)
        yield from _up_to(source, endings, text)
        source.arguments('"')
        return
    pieces: list[str] = []
    yield from _up_to(source, endings, _Lines(pieces.append, own_lines=own_lines))
    source.arguments(as_json("".join(pieces), types))


def _up_to(source: Source, endings: Sequence[Ending], emit: Callable[[str], None]) -> Step[None]:
    by_tag = {ending.tag: ending for ending in endings}
    while True:
        tag = yield from source.until(*by_tag, emit=emit)
        if not tag:
            raise Malformed
        source.mark(back=len(tag))
        if (yield from _is_followed(source, by_tag[tag])):
            break
        source.forget_mark()
        emit(tag)
    if by_tag[tag].is_kept:
        source.go_back()
    source.forget_mark()


def _is_followed(source: Source, ending: Ending) -> Step[bool]:
    space, follower = yield from source.ahead_after_blanks(*ending.followers)
    if follower or not source.ended:
        return bool(follower)
    cut = source.unread[space:]  # the text may have ended within the tag that follows, or before
    return any(one.startswith(cut) for one in ending.followers)


class _Lines:
    """Passes text on without the line breaks that the format puts around it."""

    def __init__(self, emit: Callable[[str], None], *, own_lines: bool) -> None:
        self._emit = emit
        self._own_lines = own_lines
        self._begun = not own_lines
        self._break = ""

    def __call__(self, text: str) -> None:
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\n")
        text = self._break + text
        self._break = "\n" if self._own_lines and text.endswith("\n") else ""
        text = text.removesuffix(self._break) if self._break else text
        if text:
            self._emit(text)
