"""One engine step as the arrays that paged attention needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.engine.model import Batch


@dataclass(frozen=True, slots=True)
class Step:
    """N tokens of S sequences, one after another, each in the blocks of its table.

    `token_ids` and `positions` are (N) int64, `rows` (R) int32 the tokens whose logits are needed.
    `paging` is by the graph's input names, all int32.
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    rows: NDArray[np.int32]
    paging: dict[str, NDArray[np.int32]]

    @staticmethod
    def windows(batch: Batch, block_size: int) -> NDArray[np.int32]:
        """Return the blocks of layers with a window: as `block_indices`, if they have their own."""
        blocks: list[int] = []
        for part in batch.slices:
            count = -(-(part.start + len(part.token_ids)) // block_size)
            blocks.extend((part.window_table or part.block_table)[:count])
        return np.array(blocks, np.int32)

    @classmethod
    def of(cls, batch: Batch, block_size: int) -> Step:
        """Lay out a batch. A slice's block table may be longer than it needs."""
        token_ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        past_lens: list[int] = []
        begins = [0]
        blocks: list[int] = []
        block_begins = [0]
        longest = 0
        for part in batch.slices:
            first, count = len(token_ids), len(part.token_ids)
            end = part.start + count
            token_ids.extend(part.token_ids)
            positions.extend(range(part.start, end))
            rows.extend(range(first + part.logits_from, first + count))
            past_lens.append(part.start)
            begins.append(first + count)
            blocks.extend(part.block_table[: -(-end // block_size)])
            block_begins.append(len(blocks))
            longest = max(longest, end)
        return cls(
            token_ids=np.array(token_ids, np.int64),
            positions=np.array(positions, np.int64),
            rows=np.array(rows, np.int32),
            paging={
                "past_lens": np.array(past_lens, np.int32),
                "subsequence_begins": np.array(begins, np.int32),
                "block_indices": np.array(blocks, np.int32),
                "block_indices_begins": np.array(block_begins, np.int32),
                "max_context_len": np.array(longest, np.int32),
            },
        )
