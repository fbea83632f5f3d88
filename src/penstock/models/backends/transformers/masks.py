"""Which cached keys the rows of a step see, as additive masks; each is built once a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.backends.steps import DecodeGroup, MaskRule, PrefillChunk


def decode_plan(
    group: DecodeGroup, rule: MaskRule, dtype: torch.dtype
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Return (blocks to read, keys a sequence, additive mask (n, 1, 1, keys)) of a group."""
    plan = rule.cached.get((group.first, dtype))
    if plan is not None:
        return plan
    table = group.table
    columns = table.shape[1]
    if rule.window is None:
        offset = torch.zeros_like(group.positions)
        width = group.longest
    else:
        offset = (group.positions - rule.window + 1).clamp_(min=0) // BLOCK_SIZE
        columns = min(columns, (rule.window - 1) // BLOCK_SIZE + 2)
        places = offset + torch.arange(columns, device=table.device)
        # A place past the end repeats the last block; its positions are past the query: unseen.
        table = table.gather(1, places.clamp(max=table.shape[1] - 1))
        width = columns * BLOCK_SIZE
    keys = offset * BLOCK_SIZE + torch.arange(width, device=table.device)
    mask = rule.mask(group.positions, keys, dtype)[:, None, None]
    plan = (table.reshape(-1), width, mask)
    rule.cached[group.first, dtype] = plan
    return plan


def prefill_mask(
    chunk: PrefillChunk, rule: MaskRule, first_block: int, width: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the additive mask (1, 1, t, keys) of a chunk."""
    cached = rule.cached.get((chunk.first, dtype))
    if cached is not None:
        return cached
    device = chunk.blocks.device
    begin = 0 if chunk.start == 0 else first_block * BLOCK_SIZE
    queries = torch.arange(chunk.start, chunk.start + chunk.last - chunk.first, device=device)
    keys = torch.arange(begin, begin + width, device=device)
    mask = rule.mask(queries[:, None], keys[None], dtype)[None, None]
    for first, end in chunk.mutual:
        asking, asked = (queries >= first) & (queries < end), (keys >= first) & (keys < end)
        seen = asking[:, None] & asked[None]
        if rule.window is not None:
            seen &= keys[None] > queries[:, None] - rule.window
        mask[0, 0].masked_fill_(seen, 0.0)
    rule.cached[chunk.first, dtype] = mask
    return mask


def first_visible_block(start: int, window: int | None) -> int:
    """Return the first block that a query at `start`, or one after it, can see."""
    return 0 if window is None else max(0, start - window + 1) // BLOCK_SIZE
