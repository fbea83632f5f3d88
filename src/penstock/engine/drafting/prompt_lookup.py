"""Guessing how a text goes on by how it went on before (prompt lookup)."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_MATCHED: Final = 3
"""Tokens that have to be the same before a continuation is guessed."""

_MOST_INDEXED: Final = 32_768
"""Of a longer text only this much of the end is looked at: the index takes some 100 bytes a token."""


class Lookup:
    """The places of one growing text's runs of three tokens, the latest of each.

    The method is Prompt Lookup Decoding (Saxena, 2023): answers quote their prompts and repeat
    themselves. Only the tokens decide, so a continued answer is guessed at as before.
    """

    __slots__ = ("_ends", "_indexed")

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def guess(self, token_ids: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow, or none.

        `token_ids` has grown since the last call, and is otherwise the same.
        """
        length = len(token_ids)
        self._index(token_ids)
        begin = self._ends.get(tuple(token_ids[length - _MATCHED :]))
        if begin is None or count < 1:
            return []
        after = token_ids[begin : begin + count]
        # Where the text's end is reached, it repeats itself with that period.
        return list(after) if len(after) == count else list(islice(cycle(after), count))

    def _index(self, token_ids: Sequence[int]) -> None:
        """Note the runs that something follows: all but the text's last."""
        first = max(self._indexed, _MATCHED, len(token_ids) - _MOST_INDEXED)
        for end in range(first, len(token_ids)):
            self._ends[tuple(token_ids[end - _MATCHED : end])] = end
        self._indexed = len(token_ids)
