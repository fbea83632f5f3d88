"""The sequences' block tables on the device, kept from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from penstock.models.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.engine.model import SequenceSlice


@dataclass(slots=True)
class _Row:
    index: int
    known: list[int] = field(default_factory=list[int])


class BlockTables:
    """A row of a (rows, blocks) int32 matrix for every sequence that runs.

    A step's tokens bring their own blocks' ids along, so that mostly nothing else is sent; what a
    sequence has before them (a shared prefix) is sent here. The engine's thread owns it.
    """

    def __init__(self, rows: int, blocks: int, device: torch.device) -> None:
        self.tensor = torch.zeros((rows, max(1, blocks)), dtype=torch.int32, device=device)
        self._rows: dict[int, _Row] = {}
        self._free = list(range(rows - 1, -1, -1))

    @property
    def capacity(self) -> int:
        """How many sequences have room."""
        return self.tensor.shape[0]

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
            sent = torch.tensor(list(table), dtype=torch.int32)
            self.tensor[row.index, : len(sent)] = sent.to(self.tensor.device)
        after = -(-(part.start + len(part.token_ids)) // BLOCK_SIZE)
        if len(known) != after or known[-1] != table[after - 1]:
            row.known = list(table[:after])
        return row.index

    def release(self, key: int) -> None:
        """Give a sequence's row back."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._free.append(row.index)

    def clear(self) -> None:
        """Give all rows back."""
        for key in list(self._rows):
            self.release(key)
