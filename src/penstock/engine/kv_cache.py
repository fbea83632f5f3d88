"""Which block of the KV cache holds what: reference counts, the prefix cache, sequences' tables.

Only bookkeeping; the keys and values are the backend's. The engine's thread owns it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Items

    from penstock.engine.model import KVLayout
    from penstock.engine.sequence import Sequence


class OutOfBlocks(Exception):
    """More blocks were requested than are free. The scheduler checks before: this is a bug."""


class BlockPool:
    """Allocates blocks, counts their references and records what full ones contain.

    A block is free (no useful content), in use (one or more references), or cached (no reference,
    but full and found by its digest). When no block is free, the least recently used cached one
    is evicted.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, caching: bool = True, window: int = 0
    ) -> None:
        """`window` is how many tokens a token sees, itself included; 0: all before it."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.caching = caching
        self.window = window
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_blocks
        self._digest_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """How many blocks `allocate` can return."""
        return len(self._free) + len(self._cached)

    @property
    def use(self) -> float:
        """The share of blocks in use by sequences, 0 to 1."""
        return 1.0 - self.available / self.num_blocks

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks `tokens` need."""
        return -(-tokens // self.block_size)

    def first_needed(self, tokens: int) -> int:
        """Return the first block of a sequence that the token after its first `tokens` sees."""
        return max(0, tokens - self.window + 1) // self.block_size if self.window else 0

    def most_needed(self, tokens: int) -> int:
        """Return how many blocks a sequence of `tokens` needs at once, if it is computed bit by bit."""
        needed = self.blocks_for(tokens)
        return min(needed, self.blocks_for(self.window) + 2) if self.window else needed

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, each with one reference.

        :raises OutOfBlocks: fewer are available; none is taken then.
        """
        if count > self.available:
            raise OutOfBlocks(f"{count} blocks requested, {self.available} available")
        taken: list[int] = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._references[block] = 1
            taken.append(block)
        return taken

    def reusable(self, digests: Items[bytes]) -> list[int]:
        """Return after how many of these blocks a sequence can start, ascending.

        After those of the longest known prefix; with a window after all whose last ones are known.
        """
        counts: list[int] = []
        run = 0
        for count, digest in enumerate(digests, 1):
            run = run + 1 if digest in self._block_of else 0
            if count - run <= self.first_needed(count * self.block_size):
                counts.append(count)
            elif not self.window:
                break
        return counts

    def known(self, digests: Items[bytes]) -> list[int]:
        """Return the blocks with these contents, which are known, without taking references."""
        return [self._block_of[digest] for digest in digests]

    def holds(self, digest: bytes) -> bool:
        """Return whether a block has this content; any thread."""
        return digest in self._block_of

    def idle(self, blocks: Iterable[int]) -> int:
        """Return how many of these blocks have no reference: acquiring those lowers `available`."""
        return sum(self._references[block] == 0 for block in blocks)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of these matched blocks."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def release(self, blocks: Items[int]) -> None:
        """Drop a reference to each block of a sequence, given in the sequence's order."""
        # Backwards, so that a prefix's end is evicted before its start, which more sequences share.
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._digest_of[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def register(self, block: int, digest: bytes) -> None:
        """Record that a block in use is full, computed, and has this content.

        The first block with a content is the one that `match` returns; a second one is not recorded.
        """
        if self.caching and digest not in self._block_of and self._digest_of[block] is None:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        digest = self._digest_of[block]
        assert digest is not None  # noqa: S101 - only blocks with a digest are cached
        del self._block_of[digest]
        self._digest_of[block] = None
        return block


class Tabled(Protocol):
    """What has blocks: a sequence, or a text that a model drafts for.

    `computed` tokens are in them; the first `dropped_blocks` of layers with a window are given back.
    """

    block_table: list[int]
    window_table: list[int]
    dropped_blocks: int

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are there."""
        ...


class BlockTables:
    """Gives sequences blocks, and takes back those that no token will see again.

    All layers share one pool; or those with a window have the second one, and only they release
    blocks of a running sequence: those wholly behind its window. Their entries in the table then
    repeat the first block that is left. Owned by the engine's thread.
    """

    def __init__(self, pool: BlockPool, window_pool: BlockPool | None = None) -> None:
        self.pools = (pool,) if window_pool is None else (pool, window_pool)
        self._size = pool.block_size
        self._apart = window_pool is not None
        last = self.pools[-1]
        self._window_pool = last if last.window else None

    @classmethod
    def of(cls, layout: KVLayout, blocks: int, window_blocks: int, *, caching: bool) -> BlockTables:
        """Return those of a model with so many blocks; no `window_blocks`: no layer releases any."""
        size = layout.block_size
        if not window_blocks:
            return cls(BlockPool(blocks, size, caching=caching))
        windows = BlockPool(window_blocks, size, caching=caching, window=layout.window)
        if not layout.has_full_layers:
            return cls(windows)
        return cls(BlockPool(blocks, size, caching=caching), windows)

    @property
    def use(self) -> float:
        """The share of blocks in use, 0 to 1, of the pool that is fuller."""
        return max(pool.use for pool in self.pools)

    def reusable(self, digests: list[bytes]) -> list[int]:
        """Return after how many of these blocks a sequence can start in all layers, ascending."""
        counts = self.pools[0].reusable(digests)
        for pool in self.pools[1:]:
            own = set(pool.reusable(digests))
            counts = [count for count in counts if count in own]
        return counts

    def lacks(self, sequence: Sequence, tokens: int) -> bool:
        """Return whether a sequence needs more blocks for its first `tokens` tokens."""
        size = self._size
        if len(sequence.block_table) * size < tokens:
            return True
        return self._apart and len(sequence.window_table) * size < tokens

    def extend(self, sequence: Tabled, tokens: int) -> bool:
        """Give a sequence the blocks for its first `tokens` tokens, or return False and give none."""
        missing = [
            max(0, pool.blocks_for(tokens) - len(table)) for pool, table in self._of(sequence)
        ]
        if any(count > pool.available for pool, count in zip(self.pools, missing, strict=True)):
            return False
        for (pool, table), count in zip(self._of(sequence), missing, strict=True):
            table.extend(pool.allocate(count))
        return True

    def room(self, sequence: Sequence, *, spare: int | None = None) -> int:
        """Return how many tokens fit into a sequence's blocks and those that are free.

        With `spare` into its own, and one more if more than `spare` are free.
        """
        tokens: list[int] = []
        for pool, table in self._of(sequence):
            free = pool.available if spare is None else int(pool.available > spare)
            tokens.append((len(table) + free) * self._size)
        return min(tokens)

    def admit(self, sequence: Sequence, taken: int, *, alone: bool) -> bool:
        """Give a sequence its first blocks, `taken` of them computed earlier, or return False.

        They are those of the whole prompt; of layers with a window those of the next token, if all
        that it will need at once are free. Unless it runs `alone`, a reserve is left to the others,
        so that none of them is preempted at once.
        """
        length = len(sequence.token_ids)
        known = [
            pool.known(sequence.digests[pool.first_needed(taken * self._size) : taken])
            for pool in self.pools
        ]
        for pool, blocks in zip(self.pools, known, strict=True):
            needed = max(1, pool.most_needed(length) - len(blocks))
            reserve = 0 if alone else pool.num_blocks // 100
            if needed + reserve > pool.available - pool.idle(blocks):
                return False
        for (pool, table), blocks in zip(self._of(sequence), known, strict=True):
            pool.acquire(blocks)
            new = 1 if pool.window else pool.blocks_for(length) - taken
            own = blocks + pool.allocate(new)
            dropped = taken - len(blocks)
            table[:] = [own[0]] * dropped + own
            if pool.window:
                sequence.dropped_blocks = dropped
        return True

    def slide(self, sequence: Tabled) -> None:
        """Release the blocks of a sequence that lie wholly behind the window of its next token."""
        pool = self._window_pool
        if pool is None:
            return
        table = sequence.window_table if self._apart else sequence.block_table
        first = min(pool.first_needed(sequence.computed), len(table) - 1)
        if first > sequence.dropped_blocks:
            pool.release(table[sequence.dropped_blocks : first])
            table[:first] = [table[first]] * first
            sequence.dropped_blocks = first

    def blocks(self, sequence: Sequence, index: int) -> list[int]:
        """Return the `index`-th blocks of a sequence, one of each pool."""
        return [table[index] for _, table in self._of(sequence)]

    def register(self, sequence: Sequence, index: int) -> None:
        """Record what the `index`-th blocks of a sequence contain, now that they are computed."""
        for pool, table in self._of(sequence):
            if not pool.window or index >= sequence.dropped_blocks:
                pool.register(table[index], sequence.digests[index])

    def release(self, sequence: Tabled) -> None:
        """Take back all blocks of a sequence."""
        for pool, table in self._of(sequence):
            pool.release(table[sequence.dropped_blocks if pool.window else 0 :])

    def _of(self, sequence: Tabled) -> Iterator[tuple[BlockPool, list[int]]]:
        """Yield the pools, each with the sequence's table of it."""
        return zip(self.pools, (sequence.block_table, sequence.window_table), strict=False)
