"""The indices of one step, computed once and used by every layer.

A step's tokens are one flat row: first the decode slices (one token each), sorted by length and
cut into groups of similar length, so that padding to the longest of a group stays cheap; then the
prefill chunks, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.model import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.model import SequenceSlice

BLOCK_SIZE = 16

GROUP_BLOCKS = 16
"""Sequences of up to so many blocks decode in one group: padding the shorter costs little there."""

GROUP_GROWTH = 2
"""Beyond it, those do whose lengths differ by no more than this."""


class MaskRule:
    """Which keys a query sees, according to the model.

    `allowed` is one of Transformers' index-based mask functions. `window` bounds how far back a
    query can see (sliding windows, chunked attention), which saves reading older blocks.
    Masks are kept here, as all layers with one rule share them.
    """

    def __init__(
        self, allowed: Callable[..., Any] | None = None, window: int | None = None
    ) -> None:
        self.allowed = allowed
        self.window = window
        self.plain_causal = allowed is None
        self.cached: dict[Any, Any] = {}

    def mask(
        self, query_positions: torch.Tensor, key_positions: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Additive mask of broadcast positions: 0 if the query sees the key, else -inf."""
        seen = key_positions <= query_positions
        if self.allowed is not None:
            seen = seen & self.allowed(0, 0, query_positions, key_positions)
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, float("-inf"))


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows `first .. last - 1` of the step: one token of each of n sequences of similar length.

    `table` is (n, blocks) int64, padded with the sequence's own last block; `positions` (n, 1).
    """

    first: int
    last: int
    table: torch.Tensor
    positions: torch.Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Rows `first .. last - 1`: positions `start ..` of one sequence; `blocks` is (blocks,).

    The positions of each of its `mutual` runs, (first, last + 1), see each other.
    """

    first: int
    last: int
    start: int
    blocks: torch.Tensor
    mutual: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `write_slots` (T,) are the slots for each row's key and value.

    `token_ids` and `position_ids` are (1, T); `logit_rows` are the rows whose logits are wanted,
    in the order that `Model.forward` promises. `first_rows` are those at which the batch's slices
    begin, in their order. `windows` is the same step in the blocks of layers with a window, if these
    have their own.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    write_slots: torch.Tensor
    logit_rows: torch.Tensor
    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[PrefillChunk, ...]
    first_rows: tuple[int, ...]
    causal: MaskRule = field(default_factory=MaskRule)
    windows: Step | None = None


def build_step(batch: Batch, device: torch.device) -> Step:
    """Lay a batch out flat."""
    step = _laid_out(batch, device)
    if not any(part.window_table for part in batch.slices):
        return step
    apart = Batch([replace(part, block_table=part.window_table) for part in batch.slices])
    return replace(step, windows=_laid_out(apart, device))


def _laid_out(batch: Batch, device: torch.device) -> Step:
    decodes = [index for index, part in enumerate(batch.slices) if len(part.token_ids) == 1]
    decodes.sort(key=lambda index: batch.slices[index].start)
    prefills = [index for index, part in enumerate(batch.slices) if len(part.token_ids) > 1]
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    row_of: dict[int, int] = {}
    for index in (*decodes, *prefills):
        part = batch.slices[index]
        row_of[index] = len(tokens)
        tokens.extend(part.token_ids)
        end = part.start + len(part.token_ids)
        positions.extend(range(part.start, end))
        table = part.block_table
        slots.extend(
            table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            for position in range(part.start, end)
        )
    rows = [
        row_of[index] + offset
        for index, part in enumerate(batch.slices)
        for offset in range(part.logits_from, len(part.token_ids))
    ]
    return Step(
        token_ids=_tensor([tokens], device),
        position_ids=_tensor([positions], device),
        attention_mask=torch.ones((1, len(tokens)), dtype=torch.int64, device=device),
        write_slots=_tensor(slots, device),
        logit_rows=_tensor(rows, device),
        decodes=_groups([batch.slices[index] for index in decodes], device),
        prefills=tuple(
            PrefillChunk(
                first=row_of[index],
                last=row_of[index] + len(batch.slices[index].token_ids),
                start=batch.slices[index].start,
                blocks=_tensor(_blocks(batch.slices[index]), device),
                mutual=_mutual(batch.slices[index]),
            )
            for index in prefills
        ),
        first_rows=tuple(row_of[index] for index in range(len(batch.slices))),
    )


def similar(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Split ascending positions so that padding stays cheap: (first, last) of each group."""
    cuts: list[int] = []
    limit = 0
    for row, position in enumerate(positions):
        blocks = position // BLOCK_SIZE + 1
        if not cuts or blocks > limit:
            cuts.append(row)
            limit = max(GROUP_BLOCKS, blocks * GROUP_GROWTH)
    return list(pairwise([*cuts, len(positions)]))


def _groups(slices: Sequence[SequenceSlice], device: torch.device) -> tuple[DecodeGroup, ...]:
    """Decode slices, shortest first, in groups of similar length."""
    cuts = similar([part.start for part in slices])
    return tuple(_group(slices[first:last], first, device) for first, last in cuts)


def _group(slices: Sequence[SequenceSlice], first: int, device: torch.device) -> DecodeGroup:
    tables = [_blocks(part) for part in slices]
    width = len(tables[-1])
    return DecodeGroup(
        first=first,
        last=first + len(slices),
        # The padding is a sequence's own block, so that nothing of another (a NaN) can reach it.
        table=_tensor([table + [table[-1]] * (width - len(table)) for table in tables], device),
        positions=_tensor([[part.start] for part in slices], device),
        longest=slices[-1].start + 1,
    )


def _mutual(part: SequenceSlice) -> tuple[tuple[int, int], ...]:
    if part.images is None:
        return ()
    return part.images.mutual(part.start, part.start + len(part.token_ids))


def _blocks(part: SequenceSlice) -> list[int]:
    return list(part.block_table[: (part.start + len(part.token_ids) - 1) // BLOCK_SIZE + 1])


def _tensor(values: Sequence[Any], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
