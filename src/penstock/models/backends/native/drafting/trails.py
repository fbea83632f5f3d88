"""What a head that drafts has still to read of each sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from penstock.models.backends.native.drafting.head import HeadRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from penstock.engine.model import SequenceSlice
    from penstock.models.backends.native.drafting.head import NativeHead

READ_ROWS = 32
"""Rows of a sequence that may wait to be read: from then on all that wait are read together."""


@dataclass(slots=True)
class _Trail:
    """A sequence's last tokens, from position `start` on, and the model's hidden states of them.

    The head has read all rows before `start`.
    """

    start: int
    token_ids: list[int] = field(default_factory=list[int])
    hidden: list[NDArray[np.float32]] = field(default_factory=list["NDArray[np.float32]"])

    def cut(self, end: int) -> None:
        """Drop what is at position `end` and behind it: these tokens were replaced."""
        if not self.start <= end <= self.start + len(self.token_ids):
            self.start, self.token_ids, self.hidden = end, [], []
        elif end < self.start + len(self.token_ids):
            count = end - self.start
            del self.token_ids[count:]
            self.hidden = [np.concatenate(self.hidden)[:count]] if count else []

    def add(self, token_ids: Sequence[int], hidden: NDArray[np.float32]) -> None:
        self.token_ids.extend(token_ids)
        self.hidden.append(hidden)

    def take(self, next_token: int) -> tuple[int, list[int], NDArray[np.float32]]:
        """Return the rows that wait, and let none wait; `next_token` comes after the last one."""
        start, hidden = self.start, np.concatenate(self.hidden)
        token_ids = [*self.token_ids[1:], next_token]
        self.start += len(self.token_ids)
        self.token_ids, self.hidden = [], []
        return start, token_ids, hidden


class Trails:
    """Follows sequences, and has the head read their tokens some at a time. The engine's thread owns it.

    A row is read only once the token after it is settled, so the head never reads a draft. What it
    reads of a block that another sequence shares is the same, but for the block's last row, which
    depends on the next token. That can make a draft worse, never a text.
    """

    def __init__(self, head: NativeHead, cache: NDArray[np.uint8]) -> None:
        self._head = head
        self._cache = cache
        self._trails: dict[int, _Trail | None] = {}  # None: it is not followed
        self.taps = head.taps
        self.resting = False
        """Whether new sequences are left out, but for a few."""

    def follows(self, key: int) -> bool:
        """Return whether a sequence is followed; that is decided when it is first seen."""
        if key not in self._trails:
            left_out = self.resting and key % _TRIED
            self._trails[key] = None if left_out else _Trail(-1)
        return self._trails[key] is not None

    def begin(self, slices: Iterable[SequenceSlice]) -> None:
        """Take note of a step's slices before it is computed; read what waits, if it is much."""
        parts: list[HeadRows] = []
        waiting = 0
        trails = [
            (trail, part)
            for part in slices
            if self.follows(part.key) and (trail := self._trails[part.key]) is not None
        ]
        for trail, part in trails:
            trail.cut(part.start)
            waiting = max(waiting, len(trail.token_ids))
        if waiting < READ_ROWS:
            return
        for trail, part in trails:
            if trail.token_ids:
                start, token_ids, hidden = trail.take(part.token_ids[0])
                parts.append(HeadRows(start, token_ids, hidden, part.block_table, drafts=False))
        self._head.compute(parts, self._cache)

    def add(self, part: SequenceSlice, hidden: NDArray[np.float32]) -> None:
        """Take a computed slice's hidden states, (tokens, width)."""
        trail = self._trails.get(part.key)
        if trail is not None:
            trail.add(part.token_ids, hidden)

    def draft(self, slices: Sequence[SequenceSlice], count: int) -> list[list[int]]:
        """Return `count` tokens after each slice, which is of one token that is not computed yet.

        None for a sequence that is not followed, or of which nothing waits.
        """
        ready: list[int] = []
        parts: list[HeadRows] = []
        for index, part in enumerate(slices):
            trail = self._trails.get(part.key)
            if trail is None:
                continue
            trail.cut(part.start)
            if trail.token_ids:
                start, token_ids, hidden = trail.take(part.token_ids[0])
                parts.append(HeadRows(start, token_ids, hidden, part.block_table))
                ready.append(index)
        drafts: list[list[int]] = [[] for _ in slices]
        for step in range(count if ready else 0):
            chosen, hidden = self._head.compute(parts, self._cache)
            for index, token in zip(ready, chosen, strict=True):
                drafts[index].append(token)
            parts = [
                HeadRows(
                    slices[index].start + step,
                    [token],
                    hidden[row : row + 1],
                    slices[index].block_table,
                    own=True,
                )
                for row, (index, token) in enumerate(zip(ready, chosen, strict=True))
            ]
        return drafts

    def forget(self, key: int) -> None:
        """Drop a sequence."""
        self._trails.pop(key, None)


_TRIED = 16
"""While the head rests, one of so many sequences is followed: drafts may pay again."""
