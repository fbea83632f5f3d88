"""Looking for markers in text that arrives in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def unfinished(text: str, start: int, markers: Collection[str]) -> int:
    """Return where, from `start` on, a marker may begin that is not whole; else the text's end."""
    end = len(text)
    longest = max(map(len, markers)) - 1
    firsts = {marker[0] for marker in markers}
    for position in range(max(start, end - longest), end):
        if text[position] in firsts:
            tail = text[position:]
            if any(len(marker) > len(tail) and marker.startswith(tail) for marker in markers):
                return position
    return end
