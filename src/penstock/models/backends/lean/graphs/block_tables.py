"""Which row of the device's block tables is whose, and what it holds."""

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
    """A row of the device's (rows, blocks) matrix for every sequence that runs.

    A step's tokens bring their own blocks' ids along, so that mostly nothing else is sent; what a
    sequence has before them (a shared prefix) is sent by `note(row, blocks)`. The engine's thread
    owns it.
    """

    def __init__(self, rows: int, note: Callable[[int, Sequence[int]], None]) -> None:
        self.capacity = rows
        self._note = note
        self._rows: dict[int, _Row] = {}
        self._free = list(range(rows - 1, -1, -1))

    def row_of(self, part: SequenceSlice) -> int:
        """The row of a slice's sequence, with every block before the slice's first token in it.

        :raises RuntimeError: more sequences run than the tables were made for.
        """
        row = self._rows.get(part.key)
        if row is None:
            if not self._free:
                raise RuntimeError(f"the model was made ready for {self.capacity} sequences")
            row = self._rows[part.key] = _Row(self._free.pop())
        table = part.block_table
        before = -(-part.start // BLOCK_SIZE)
        known = row.known
        if len(known) < before or known[:before] != list(table[:before]):
            self._note(row.index, list(table))
        after = -(-(part.start + len(part.token_ids)) // BLOCK_SIZE)
        if len(known) != after or known[-1] != table[after - 1]:
            row.known = list(table[:after])
        return row.index

    def release(self, key: int) -> None:
        """Give a sequence's row back."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._free.append(row.index)
