"""Moves blocks between a model's KV cache and the store."""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING, Final

from penstock.contract.worker import StoreLoad
from penstock.engine.reuse.kv_store import NotRead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.engine.kv_cache import BlockPool
    from penstock.engine.model import StorableModel
    from penstock.engine.reuse.kv_store import KVStore
    from penstock.engine.sequence import Sequence

LOAD_S: Final = 0.05
"""Time of a step that may go into taking blocks that have been read."""
BESIDE_S: Final = 0.005
"""The same if other sequences wait for the step."""
_WAIT_S: Final = 0.02
"""The longest wait for a block at once, when there is nothing else to compute."""
PATIENCE_S: Final = 0.25
"""The longest time without a further block; then the rest of the prompt is computed."""
_GAIN: Final = 0.8
"""Loading has to take less than this share of the time of computing."""
_TRIED_EVERY: Final = 16
"""One prompt of this many is loaded although it seems slower, to measure the store again."""


class Loading(Enum):
    """What is left to be loaded of a sequence."""

    DONE = "nothing, or it is better computed"
    GOES_ON = "more blocks, in a later step"


class StoredBlocks:
    """Blocks that the store has beyond the pool. The engine's thread owns it."""

    def __init__(
        self, model: StorableModel, store: KVStore, pool: BlockPool, token_s: Callable[[], float]
    ) -> None:
        """`token_s` returns the measured time of computing a prompt's token; 0 if unknown."""
        self._model = model
        self._store = store
        self._pool = pool
        self._token_s = token_s
        self._last_s: dict[int, float | None] = {}
        self._refused = 0
        self._end_s = 0.0
        self.loaded_tokens = 0
        """Tokens that were loaded and not computed, so far."""

    def expect(self, sequence: Sequence, known: int) -> None:
        """Begin to read the blocks of a waiting sequence after its first `known` ones."""
        digests = sequence.digests[known : (len(sequence.token_ids) - 1) // self._pool.block_size]
        if digests and self._is_worth_it():
            self._store.expect(sequence.key, digests)
            self._last_s[sequence.key] = None

    def begin_step(self, *, beside: bool) -> None:
        """Give all loading of a step its time: less `beside` sequences that are computed in it."""
        if self._last_s:
            self._end_s = time.monotonic() + (BESIDE_S if beside else LOAD_S)

    def load(self, sequence: Sequence) -> Loading:
        """Take the next blocks of a running sequence that have been read; the disk is not waited for.

        Until all are there, the sequence is loading: steps leave it out.
        """
        size = self._pool.block_size
        while sequence.key in self._last_s:
            if time.monotonic() > self._end_s:
                return Loading.GOES_ON
            block = sequence.computed // size
            if sequence.computed % size or (block + 1) * size >= len(sequence.token_ids):
                break
            digest = sequence.digests[block]
            content = self._store.take(sequence.key, digest, 0.0)
            if content is NotRead.MISSING:
                break
            now_s = time.monotonic()
            last_s = self._last_s[sequence.key]
            if content is NotRead.PENDING:
                if last_s is None:
                    self._last_s[sequence.key] = now_s
                elif now_s - last_s > PATIENCE_S:
                    break
                return Loading.GOES_ON
            self._last_s[sequence.key] = now_s
            if not self._model.write_block(sequence.block_table[block], content):
                break
            self._pool.register(sequence.block_table[block], digest)
            sequence.computed += size
            sequence.registered_blocks = block + 1
            self.loaded_tokens += size
        self.end(sequence)
        return Loading.DONE

    def save(self, digest: bytes, block: int) -> None:
        """Have a computed block written, if the store lacks it."""
        if self._store.wants(digest, self._model.kv_layout.bytes_per_block):
            self._store.save(digest, self._model.read_block(block))

    def end(self, sequence: Sequence) -> None:
        """Load no more of a sequence."""
        if sequence.key in self._last_s:
            del self._last_s[sequence.key]
            self._store.forget(sequence.key)

    def wait(self, sequences: Iterable[Sequence]) -> None:
        """Wait a moment for a block of these sequences: there is nothing else to compute."""
        keys = [sequence.key for sequence in sequences if sequence.key in self._last_s]
        if keys:
            self._store.wait(keys, _WAIT_S)

    def warm(self, longest_s: float) -> int:
        """Load the blocks that were used last into the free ones; return how many."""
        end_s = time.monotonic() + longest_s
        blocks: list[int] = []
        for digest in self._store.newest(self._pool.available // 2):
            if time.monotonic() >= end_s:
                break
            content = self._store.read(digest)
            if content is None or self._pool.holds(digest):
                continue
            (block,) = self._pool.allocate(1)
            if self._model.write_block(block, content):
                self._pool.register(block, digest)
                blocks.append(block)
            else:
                self._pool.release([block])
        self._pool.release(blocks)  # from the oldest on: the latest is evicted last
        return len(blocks)

    def figures(self) -> StoreLoad:
        """Return what the store has done; any thread."""
        counts = self._store.counts
        return StoreLoad(
            loaded_tokens_total=self.loaded_tokens,
            read_bytes_total=counts.read_bytes,
            read_seconds_total=counts.read_s,
            written_bytes_total=counts.written_bytes,
            dropped_blocks_total=counts.dropped_blocks,
            errors_total=counts.errors,
        )

    def _is_worth_it(self) -> bool:
        layout = self._model.kv_layout
        compute_s = self._token_s() * layout.block_size
        read_s = self._store.read_s(layout.bytes_per_block)
        if not compute_s or read_s < compute_s * _GAIN:
            return True
        self._refused += 1
        return self._refused % _TRIED_EVERY == 0
