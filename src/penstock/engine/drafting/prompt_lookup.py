"""Prompt-lookup drafting: a text is expected to continue as it did before."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_MATCHED: Final = 3
"""Tokens that have to match before a continuation is drafted."""

_MOST_INDEXED: Final = 32_768
"""Only this many last tokens of a longer text are indexed: each takes some 100 bytes."""


class PromptLookup:
    """The last position of each run of three tokens in one growing text.

    The method is Prompt Lookup Decoding (Saxena, 2023): answers quote their prompts and repeat
    themselves. Only the tokens decide, so a continued answer gets the same drafts.
    """

    __slots__ = ("_ends", "_indexed")

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def draft(self, token_ids: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow, or none.

        `token_ids` has grown since the last call, and is otherwise the same.
        """
        length = len(token_ids)
        self._index(token_ids)
        begin = self._ends.get(tuple(token_ids[length - _MATCHED :]))
        if begin is None or count < 1:
            return []
        after = token_ids[begin : begin + count]
        # A run that overlaps the text's end repeats with that period.
        return list(after) if len(after) == count else list(islice(cycle(after), count))

    def _index(self, token_ids: Sequence[int]) -> None:
        """Index all runs but the text's last, which nothing follows."""
        first = max(self._indexed, _MATCHED, len(token_ids) - _MOST_INDEXED)
        for end in range(first, len(token_ids)):
            self._ends[tuple(token_ids[end - _MATCHED : end])] = end
        self._indexed = len(token_ids)
