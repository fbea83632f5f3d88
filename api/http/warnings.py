"""What a request asked for and does not get: short texts for its client.

What the server does not run is left out of a request and reported here, as long as the answer is
right without it. docs/compatibility.md lists what is left out and what is refused.
"""

from __future__ import annotations

import json
from typing import Final

HEADER: Final = "x-penstock-warnings"
MOST: Final = 24
LONGEST: Final = 160
MOST_BYTES: Final = 3_000
"""Of the header: proxies allow 4 to 8 KB for all headers together."""


class Warnings:
    """The warnings of one request, each once, in the order in which they came up; bounded."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._more = 0

    def add(self, text: str) -> None:
        """Add a warning, unless there is one of the same text."""
        text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
        if text in self._texts:
            return
        if len(self._texts) < MOST:
            self._texts[text] = None
        else:
            self._more += 1

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._texts)

    @property
    def texts(self) -> list[str]:
        """The warnings; the last one counts those that a bound has cut off."""
        return self._first(len(self._texts))

    @property
    def header(self) -> str:
        """The header's value: a JSON array in ASCII, of as many of the texts as fit."""
        for kept in range(len(self._texts), 0, -1):
            value = json.dumps(self._first(kept))
            if len(value) <= MOST_BYTES:
                return value
        return json.dumps(self._first(0))

    def _first(self, kept: int) -> list[str]:
        more = len(self._texts) - kept + self._more
        return [*list(self._texts)[:kept], *([f"{more} more"] if more else [])]

    def member(self) -> dict[str, list[str]]:
        """Return the `warnings` member of an answer's object; {} if there are none."""
        return {"warnings": self.texts} if self else {}
