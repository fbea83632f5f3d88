"""Moves blocks between a model's KV cache and the store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from penstock.contract.worker import StoreLoad
from penstock.engine.model import StorableStates, StorableWindows, stateful
from penstock.engine.reuse.read_ahead import NotRead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.engine.kv_cache import BlockTables
    from penstock.engine.model import StorableModel
    from penstock.engine.reuse.kv_store import KVStore
    from penstock.engine.reuse.read_ahead import Loaded
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


def state_name(digest: bytes) -> bytes:
    """Return the name in the store of the state after the block of a digest."""
    return blake2b(digest, digest_size=len(digest), person=b"state").digest()


class Loading(Enum):
    """What is left to be loaded of a sequence."""

    DONE = "nothing, or it is better computed"
    GOES_ON = "more blocks, in a later step"


@dataclass(frozen=True, slots=True)
class _Content:
    """What a block holds in all layers: those of one pool, or of two, one after the other."""

    model: StorableModel
    windowed: StorableWindows | None

    def read(self, blocks: list[int]) -> bytes:
        """Return the bytes of these blocks, one of each pool."""
        content = self.model.read_block(blocks[0])
        if len(blocks) > 1 and self.windowed is not None:
            content += self.windowed.read_window_block(blocks[1])
        return content

    def write(self, blocks: list[int], content: bytes) -> bool:
        """Write the bytes of these blocks; False if they are not of this format."""
        if len(blocks) == 1 or self.windowed is None:
            return self.model.write_block(blocks[0], content)
        size = len(content) - self.model.kv_layout.window_bytes
        return self.model.write_block(
            blocks[0], content[:size]
        ) and self.windowed.write_window_block(blocks[1], content[size:])


class _Gain:
    """Whether loading takes less time than computing, as both were measured; yes, if they were not."""

    def __init__(self, load_s: Callable[[], float], compute_s: Callable[[], float]) -> None:
        """Both return the time (s) of a block; 0 if unknown."""
        self._load_s = load_s
        self._compute_s = compute_s
        self._refused = 0

    def is_worth_it(self) -> bool:
        """Return whether to load; from time to time what seems slower is measured again."""
        compute_s = self._compute_s()
        if not compute_s or self._load_s() < compute_s * _GAIN:
            return True
        self._refused += 1
        return self._refused % _TRIED_EVERY == 0


class StoredBlocks:
    """Blocks that the store has beyond the pool. The engine's thread owns it."""

    def __init__(
        self,
        model: StorableModel,
        store: KVStore,
        tables: BlockTables,
        token_s: Callable[[], float],
    ) -> None:
        """`token_s` returns the measured time of computing a prompt's token; 0 if unknown."""
        self._model = model
        self._content = _Content(model, model if isinstance(model, StorableWindows) else None)
        self._layout = model.kv_layout
        self._store = store
        self._tables = tables
        self._size = tables.pools[0].block_size
        self._token_s = token_s
        self._states = model if stateful(model) and isinstance(model, StorableStates) else None
        self._last_s: dict[int, float | None] = {}
        self._next: dict[int, int] = {}
        size = self._layout.bytes_per_block
        self._disk_gain = _Gain(lambda: store.read_s(size), self._block_s)
        self._remote_gain = _Gain(lambda: store.remote_s(size), self._block_s)
        self._end_s = 0.0
        self.loaded_tokens = 0
        """Tokens that were loaded and not computed, so far."""
        self._remote_tokens = 0

    def expect(self, sequence: Sequence, known: int) -> None:
        """Begin to read the blocks of a waiting sequence after its first `known` ones."""
        digests = sequence.digests[known : (len(sequence.token_ids) - 1) // self._size]
        if digests and self._disk_gain.is_worth_it():
            states = [] if self._states is None else [state_name(digest) for digest in digests]
            ask = self._remote_gain.is_worth_it()
            self._store.expect(sequence.key, digests, states, ask=ask)
            self._last_s[sequence.key] = None
            self._next[sequence.key] = known

    def begin(self, sequence: Sequence) -> None:
        """Load nothing for a starting sequence if blocks before those that are read are gone."""
        if self._next.get(sequence.key, 0) * self._size > sequence.computed:
            self.end(sequence)

    def begin_step(self, *, beside: bool) -> None:
        """Give all loading of a step its time: less `beside` sequences that are computed in it."""
        if self._last_s:
            self._end_s = time.monotonic() + (BESIDE_S if beside else LOAD_S)

    def load(self, sequence: Sequence) -> Loading:
        """Take the next blocks of a running sequence that have been read; the disk is not waited for.

        Until all are there, the sequence is loading: steps leave it out.
        """
        while sequence.key in self._last_s:
            if time.monotonic() > self._end_s:
                return Loading.GOES_ON
            loaded = self._store.take(sequence.key)
            if loaded is NotRead.PENDING:
                if not self._is_late(sequence.key):
                    return Loading.GOES_ON
                break
            if isinstance(loaded, NotRead) or not self._take(sequence, loaded):
                break
            self._last_s[sequence.key] = time.monotonic()
        self.end(sequence)
        return Loading.DONE

    def _is_late(self, key: int) -> bool:
        """Whether no block has come for so long that the rest is computed."""
        now_s, last_s = time.monotonic(), self._last_s[key]
        if last_s is None:
            self._last_s[key] = now_s
        return last_s is not None and now_s - last_s > PATIENCE_S

    def _take(self, sequence: Sequence, loaded: Loaded) -> bool:
        """Take what was read; False if it is not what comes next, or not of this model.

        Blocks of a model with states count as computed once the state after them is there.
        """
        size, block = self._size, self._next[sequence.key]
        name, content, is_remote = loaded
        if self._states is not None and block and name == state_name(sequence.digests[block - 1]):
            if block * size > sequence.computed and self._states.write_state(
                sequence.state, content
            ):
                self._computed(sequence, block)
            return False  # it was the last
        is_next = (block + 1) * size < len(sequence.token_ids) and name == sequence.digests[block]
        if not is_next:
            return False
        self._next[sequence.key] = block + 1
        if block * size < sequence.computed:
            return True  # another sequence has computed it since
        if not self._tables.extend(sequence, (block + 1) * size):
            return False
        if not self._content.write(self._tables.blocks(sequence, block), content):
            return False
        self._remote_tokens += size if is_remote else 0
        if self._states is None:
            self._computed(sequence, block + 1)
        return True

    def _computed(self, sequence: Sequence, blocks: int) -> None:
        """Note that a sequence has its first blocks."""
        size = self._size
        self.loaded_tokens += blocks * size - sequence.computed
        for block in range(sequence.computed // size, blocks):
            self._tables.register(sequence, block)
        sequence.computed = blocks * size
        sequence.registered_blocks = blocks
        self._tables.slide(sequence)

    def save_state(self, digest: bytes, place: int) -> None:
        """Have the state after a block written, if the store lacks it."""
        keeping, states = stateful(self._model), self._states
        if keeping is not None and states is not None:
            name = state_name(digest)
            if self._store.wants(name, keeping.state_bytes):
                self._store.save(name, states.read_state(place))

    def save(self, sequence: Sequence, index: int) -> None:
        """Have the `index`-th block of a sequence written, if the store lacks it."""
        digest = sequence.digests[index]
        if self._store.wants(digest, self._layout.bytes_per_block):
            self._store.save(digest, self._content.read(self._tables.blocks(sequence, index)))

    def end(self, sequence: Sequence) -> None:
        """Load no more of a sequence."""
        if sequence.key in self._last_s:
            del self._last_s[sequence.key], self._next[sequence.key]
            self._store.forget(sequence.key)

    def wait(self, sequences: Iterable[Sequence]) -> None:
        """Wait a moment for a block of these sequences: there is nothing else to compute."""
        keys = [sequence.key for sequence in sequences if sequence.key in self._last_s]
        if keys:
            self._store.wait(keys, _WAIT_S)

    def warm(self, longest_s: float) -> int:
        """Load the blocks that were used last into the free ones; return how many.

        None of a model with states: without these they are of no use.
        """
        if self._states is not None:
            return 0
        end_s = time.monotonic() + longest_s
        pools = self._tables.pools
        loaded: list[list[int]] = []
        count = 0
        for digest in self._store.newest(min(pool.available for pool in pools) // 2):
            if time.monotonic() >= end_s:
                break
            content = self._store.read(digest)
            if content is None or pools[0].holds(digest):
                continue
            blocks = [pool.allocate(1)[0] for pool in pools]
            if self._content.write(blocks, content):
                for pool, block in zip(pools, blocks, strict=True):
                    pool.register(block, digest)
                count += 1
            loaded.append(blocks)
        for number, pool in enumerate(pools):
            # From the oldest on: the latest is evicted last.
            pool.release([blocks[number] for blocks in loaded])
        return count

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
            remote_tokens_total=self._remote_tokens,
            remote_bytes_total=counts.remote_bytes,
            remote_seconds_total=counts.remote_s,
            remote_errors_total=self._store.remote_failures(),
        )

    def _block_s(self) -> float:
        """Return the time (s) in which a block is computed; 0 if unknown."""
        return self._token_s() * self._layout.block_size
