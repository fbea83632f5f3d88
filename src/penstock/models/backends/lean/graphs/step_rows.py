"""One engine step as a few integers a token, in the form sent to the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from penstock.engine.model import Batch, SequenceSlice
    from penstock.models.backends.lean.adapters import StepAdapters

PADDING = -1
"""Position of a padding row."""

FIELDS = 6
"""Integers a token: its id, its position, its sequence's row of the tables, its block, the row of the
last step whose chosen token replaces its id, or `KNOWN`, and its block of layers that slide."""

KNOWN = -1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `first .. first + count - 1` of a step: positions `start ..` of one sequence."""

    first: int
    count: int
    start: int
    row: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the device.

    `fields` is (FIELDS, T) int32, and `chosen` (rows,) int32 the tokens chosen in the last step. The
    first `decodes` tokens are one a sequence; the others belong to `chunks`, (C, 4) int32, the longest
    of which has `longest_chunk` tokens. `tables` (rows, blocks) int32 are the sequences' block tables.
    If only some of the first `decodes` are single tokens, `singles` (decodes,) int32 has their
    positions, and `PADDING` for the others. `window_tables` are as `tables`, of layers that slide and
    have blocks of their own.
    """

    fields: torch.Tensor
    chosen: torch.Tensor
    tables: torch.Tensor
    decodes: int
    chunks: torch.Tensor | None = None
    longest_chunk: int = 0
    singles: torch.Tensor | None = None
    window_tables: torch.Tensor | None = None

    def tables_of(self, *, apart: bool) -> torch.Tensor:
        """The block tables of a layer, which may have blocks `apart`."""
        windows = self.window_tables
        return self.tables if windows is None or not apart else windows

    @property
    def count(self) -> int:
        """Tokens of the step, T."""
        return self.fields.shape[1]

    @property
    def positions(self) -> torch.Tensor:
        """(T,); below 0 for padding."""
        return self.fields[1]

    @property
    def decode_positions(self) -> torch.Tensor:
        """Positions of at least the first `decodes` rows; negative unless a row is a single token."""
        return self.positions if self.singles is None else self.singles

    @property
    def rows(self) -> torch.Tensor:
        """(T,), each token's row of the tables."""
        return self.fields[2]


@dataclass(frozen=True, slots=True)
class Packed:
    """A step on the host: `fields` (FIELDS, T) int32, and the rows whose logits are needed."""

    fields: NDArray[np.int32]
    decodes: int
    chunks: tuple[Chunk, ...]
    logit_rows: list[int] | None
    """Rows of the step whose logits are needed; None if they are all rows, in order."""
    first_rows: list[int] = field(default_factory=list[int])
    """Where the batch's slices begin, in their order."""
    adapters: StepAdapters | None = None
    images: tuple[tuple[slice, torch.Tensor], ...] = ()
    """Rows of the step, and the embeddings (rows, hidden) that take the place of their ids'."""


def write_padded(fields: NDArray[np.int32], into: NDArray[np.int32]) -> None:
    """Copy fields (FIELDS, n) into (FIELDS, size); the remaining tokens are padding."""
    count = fields.shape[1]
    into[:, :count] = fields
    into[:, count:] = 0
    into[1, count:] = PADDING


def pack(batch: Batch, table_rows: Sequence[int]) -> Packed:
    """Return a batch in the device's layout: single tokens first, then chunks one after another."""
    slices = batch.slices
    if all(len(part.token_ids) == 1 and part.logits_from == 0 for part in slices):
        return _pack_decodes(slices, table_rows)
    singles = [index for index, part in enumerate(slices) if len(part.token_ids) == 1]
    longer = [index for index, part in enumerate(slices) if len(part.token_ids) > 1]
    total = sum(len(part.token_ids) for part in slices)
    fields = np.empty((FIELDS, total), np.int32)
    first_of: dict[int, int] = {}
    chunks: list[Chunk] = []
    first = 0
    for index in (*singles, *longer):
        part = slices[index]
        count = len(part.token_ids)
        where = slice(first, first + count)
        positions = np.arange(part.start, part.start + count, dtype=np.int32)
        fields[0, where] = part.token_ids
        fields[1, where] = positions
        fields[2, where] = table_rows[index]
        table = np.asarray(part.block_table, np.int32)
        fields[3, where] = table[positions // BLOCK_SIZE]
        fields[4, where] = KNOWN
        windows = np.asarray(part.window_table or part.block_table, np.int32)
        fields[5, where] = windows[positions // BLOCK_SIZE]
        first_of[index] = first
        if count > 1:
            chunks.append(Chunk(first, count, part.start, table_rows[index]))
        first += count
    rows = [
        first_of[index] + offset
        for index, part in enumerate(slices)
        for offset in range(part.logits_from, len(part.token_ids))
    ]
    first_rows = [first_of[index] for index in range(len(slices))]
    return Packed(fields, len(singles), tuple(chunks), rows, first_rows)


def _pack_decodes(slices: Sequence[SequenceSlice], table_rows: Sequence[int]) -> Packed:
    """Pack the common case quickly: one token a sequence, all logits needed."""
    fields = np.array(
        [
            [part.token_ids[0] for part in slices],
            [part.start for part in slices],
            table_rows,
            [part.block_table[part.start // BLOCK_SIZE] for part in slices],
            [KNOWN] * len(slices),
            [(part.window_table or part.block_table)[part.start // BLOCK_SIZE] for part in slices],
        ],
        np.int32,
    ).reshape(FIELDS, len(slices))
    return Packed(fields, len(slices), (), None, list(range(len(slices))))
