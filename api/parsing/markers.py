"""Looking for markers in text that arrives in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def unfinished(text: str, start: int, markers: Collection[str]) -> int:
    """Return where, from `start` on, a marker may begin that is not whole; else the text's end."""
    end = len(text)
    longest = max(map(len, markers)) - 1
    firsts = {one[0] for one in markers}
    for place in range(max(start, end - longest), end):
        if text[place] in firsts:
            tail = text[place:]
            if any(len(one) > len(tail) and one.startswith(tail) for one in markers):
                return place
    return end
