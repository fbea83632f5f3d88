"""Limits log lines that a lasting fault would write with every call."""

from __future__ import annotations

import time
from typing import Final

EVERY_S: Final = 10.0
"""How often a lasting fault is a line in the log."""
MOST_KINDS: Final = 100
"""Kinds of lines that are remembered."""


class RepeatedLines:
    """Which lines were written to the log when. Any thread may use it."""

    def __init__(self) -> None:
        self._at_s: dict[str, float] = {}

    def is_due(self, text: str) -> bool:
        """Return whether a line is due, and note that it is written."""
        now_s = time.monotonic()
        if now_s - self._at_s.get(text, float("-inf")) < EVERY_S:
            return False
        if len(self._at_s) > MOST_KINDS:
            self._at_s.clear()
        self._at_s[text] = now_s
        return True


lines: Final = RepeatedLines()
"""Those of this process about Redis."""
