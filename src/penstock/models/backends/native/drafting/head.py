"""A head that drafts, in the native library: a model of one layer that reads hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.native.drafting.step_hidden import StepHidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.models.architecture.draft_heads import DraftHead
    from penstock.models.backends.native.decoder import Decoder
    from penstock.models.backends.native.matrix import Packing


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of one sequence, from position `start` on, whose slots are in the blocks of a table.

    `token_ids` are those after each row's position, `hidden` (rows, width) what the model has of it;
    or, if `own`, the head itself (rows, hidden). With `drafts` the last row's next token is drafted.
    """

    start: int
    token_ids: Sequence[int]
    hidden: NDArray[np.float32]
    block_table: Sequence[int]
    own: bool = False
    drafts: bool = True


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """What a head has beside its decoder. `norms` are those of embeddings and of hidden states.

    `table` is (vocab, hidden); 16-bit integers are bf16. `target_ids` are the drafted tokens in the
    model's vocabulary, None if the head has that one.
    """

    packing: Packing
    projection: NDArray[np.uint8]
    norms: tuple[NDArray[np.float32], NDArray[np.float32] | None]
    table: NDArray[Any]
    target_ids: NDArray[np.int64] | None


class NativeHead:
    """Computes a head's rows; it has keys and values of its own in the model's blocks.

    It uses the threads of the model. The engine's thread owns it.
    """

    def __init__(self, described: DraftHead, decoder: Decoder, weights: HeadWeights) -> None:
        self._described = described
        self._decoder = decoder
        self._weights = weights
        self._epsilon = np.float32(described.body.norm.epsilon)
        self.kind = described.kind
        self.taps = described.taps
        self.block_bytes = decoder.cache_block_bytes
        self.width = decoder.shape.hidden * max(1, len(described.taps))
        """Values that it reads of one token's hidden states."""

    def compute(
        self, parts: Sequence[HeadRows], cache: NDArray[np.uint8]
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Write keys and values of the rows to `cache`, (blocks, bytes).

        Returns the tokens drafted after the parts that draft, and the head's own hidden states there,
        (parts, hidden). All parts are `own`, or none.
        """
        own = parts[0].own
        token_ids = np.array([token for part in parts for token in part.token_ids], np.int64)
        hidden = np.concatenate([part.hidden for part in parts])
        counts = [len(part.token_ids) for part in parts]
        ends = np.cumsum(counts)
        blocks = [_covering(part, self._decoder.shape.block_size) for part in parts]
        rows = np.array([end - 1 for part, end in zip(parts, ends, strict=True) if part.drafts])
        inputs, beside = self._inputs(token_ids, hidden, own=own)
        size = self._decoder.shape
        logits = np.empty((len(rows), size.vocab), np.float32)
        given = np.empty((len(rows), size.hidden), np.float32)
        self._decoder.step(
            token_ids=np.zeros(len(token_ids), np.int64),  # not read: all rows are given
            past_lens=np.array([part.start for part in parts], np.int32),
            subsequence_begins=np.array([0, *ends], np.int32),
            block_indices=np.array([block for table in blocks for block in table], np.int32),
            block_indices_begins=np.cumsum([0, *map(len, blocks)], dtype=np.int32),
            rows=rows.astype(np.int32),
            cache=cache,
            embedded=_addresses(inputs),
            inner=StepHidden(before_norm=not self._described.feeds_normed, beside=beside),
            hidden=given,
            logits=logits,
        )
        chosen = logits.argmax(axis=1)
        if self._weights.target_ids is not None:
            chosen = self._weights.target_ids[chosen]
        return chosen.tolist(), given

    def _inputs(
        self, token_ids: NDArray[np.int64], hidden: NDArray[np.float32], *, own: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the layer's input, and what stands beside it: (rows, hidden) each."""
        described, (embedding_norm, hidden_norm) = self._described, self._weights.norms
        embedded = self._normed(_widened(self._weights.table[token_ids]), embedding_norm)
        if described.kind == "eagle3":
            states = hidden if own else self._projected(hidden)
            return (states if hidden_norm is None else self._normed(states, hidden_norm)), embedded
        states = hidden if hidden_norm is None else self._normed(hidden, hidden_norm)
        both = (states, embedded) if described.hidden_first else (embedded, states)
        return self._projected(np.concatenate(both, axis=1)), None

    def _projected(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._decoder.project(self._weights.packing, self._weights.projection, values)

    def _normed(
        self, values: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        squares = np.mean(np.square(values), axis=1, keepdims=True)
        return values / np.sqrt(squares + self._epsilon) * weight


def _covering(part: HeadRows, block_size: int) -> Sequence[int]:
    """The blocks of a part's slots."""
    return part.block_table[: -(-(part.start + len(part.token_ids)) // block_size)]


def _addresses(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    return rows.ctypes.data + np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0])


def _widened(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of a table as float32; 16-bit integers are bf16."""
    if rows.dtype.kind in "iu":
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)
