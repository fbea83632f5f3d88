"""Looking for a marker in text that arrives in pieces."""

from __future__ import annotations


def suspect(text: str, marker: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)


def trailing_space(text: str) -> int:
    """Return how many characters at the end are white space."""
    return len(text) - len(text.rstrip())
