"""The rows of the device's block tables: their owners and contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.model import SequenceSlice

Note: TypeAlias = "Callable[[int, Sequence[int]], None]"


@dataclass(slots=True)
class _Row:
    index: int
    known: list[int] = field(default_factory=list[int])
    known_windows: list[int] = field(default_factory=list[int])


class BlockTables:
    """One row of the device's (rows, blocks) matrix for every running sequence.

    A step's tokens carry their own blocks' ids, so usually nothing else is sent; blocks before them
    (a shared prefix) are sent by `note(row, blocks)`, those of layers with a window by
    `note_windows`, if these have blocks of their own. Owned by the engine's thread.
    """

    def __init__(
        self,
        rows: int,
        note: Note,
        note_windows: Note | None = None,
        window: int = 0,
    ) -> None:
        self.capacity = rows
        self._note = note
        self._note_windows = note_windows
        self._window = window
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
        row.known = _noted(part, part.block_table, row.known, partial(self._note, row.index))
        if self._note_windows is not None:
            table = part.window_table or part.block_table
            note = partial(self._note_windows, row.index)
            row.known_windows = _noted(part, table, row.known_windows, note, self._window)
        return row.index

    def release(self, key: int) -> None:
        """Free a sequence's row."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._free.append(row.index)


def _noted(
    part: SequenceSlice,
    table: Sequence[int],
    known: list[int],
    note: Callable[[list[int]], None],
    window: int = 0,
) -> list[int]:
    """Send the blocks before a slice, unless they are known; return those known after it.

    With a `window`, blocks behind it are not read: nothing is sent because of them.
    """
    first = max(0, part.start - window + 1) // BLOCK_SIZE if window else 0
    before = -(-part.start // BLOCK_SIZE)
    if len(known) < before or known[first:before] != list(table[first:before]):
        note(list(table))
    after = -(-(part.start + len(part.token_ids)) // BLOCK_SIZE)
    if len(known) != after or known[-1] != table[after - 1]:
        return list(table[:after])
    return known
