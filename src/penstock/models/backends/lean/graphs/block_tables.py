"""The rows of the device's block tables: their owners and contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.model import SequenceSlice


@dataclass(slots=True)
class _Row:
    index: int
    known: list[int] = field(default_factory=list[int])


class BlockTables:
    """One row of the device's (rows, blocks) matrix for every running sequence.

    A step's tokens carry their own blocks' ids, so usually nothing else is sent; blocks before them
    (a shared prefix) are sent by `note(row, blocks)`. Owned by the engine's thread.
    """

    def __init__(self, rows: int, note: Callable[[int, Sequence[int]], None]) -> None:
        self.capacity = rows
        self._note = note
        self._rows: dict[int, _Row] = {}
        self._free = list(range(rows - 1, -1, -1))

    def row_of(self, part: SequenceSlice) -> int:
        """Return the row of a slice's sequence, after writing every block before the slice into it.

        :raises RuntimeError: more sequences run than there are rows.
        """
        row = self._rows.get(part.key)
        if row is None:
            if not self._free:
                raise RuntimeError(f"the model has room for {self.capacity} sequences")
            row = self._rows[part.key] = _Row(self._free.pop())
        table = part.block_table
        before = -(-part.start // BLOCK_SIZE)
        blocks_ = row.known
        if len(blocks_) < before or blocks_[:before] != list(table[:before]):
            self._note(row.index, list(table))
        after = -(-(part.start + len(part.token_ids)) // BLOCK_SIZE)
        if len(blocks_) != after or blocks_[-1] != table[after - 1]:
            row.known = list(table[:after])
        return row.index

    def release(self, key: int) -> None:
        """Free a sequence's row."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._free.append(row.index)
