"""Which block of the KV cache holds what: reference counts and the prefix cache.

Only bookkeeping; the keys and values are the backend's. The engine's thread owns it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from penstock.engine.image_inputs import ImageInputs
    from penstock.engine.sequence import Adapter


class OutOfBlocks(Exception):
    """More blocks were requested than are free. The scheduler checks before: this is a bug."""


class BlockPool:
    """Allocates blocks, counts their references and records what full ones contain.

    A block is free (no useful content), in use (one or more references), or cached (no reference,
    but full and found by its digest). When no block is free, the least recently used cached one
    is evicted.
    """

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.caching = caching
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

    def match(self, digests: Sequence[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix, without taking references."""
        matched: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            matched.append(block)
        return matched

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

    def release(self, blocks: Sequence[int]) -> None:
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


def extend_digests(  # noqa: PLR0917 - all that a block's contents depend on
    digests: list[bytes],
    token_ids: Sequence[int],
    block_size: int,
    images: ImageInputs | None = None,
    owner: str = "",
    adapter: Adapter | None = None,
) -> None:
    """Extend a sequence's chain of block digests to its last full block, in place.

    A digest covers its block's tokens and images and all before them, so that equal digests mean
    equal prefixes (128 bits of BLAKE2: no collision, not even a deliberate one). Sequences of
    different owners or adapters share none.
    """
    own = b"" if adapter is None else adapter.digest
    root = blake2b(own + owner.encode(), digest_size=16).digest() if owner or own else b""
    for start in range(len(digests) * block_size, len(token_ids) - block_size + 1, block_size):
        parent = digests[-1] if digests else root
        content = array("q", token_ids[start : start + block_size]).tobytes()
        if images is not None:
            content += images.digest(start, start + block_size)
        digests.append(blake2b(parent + content, digest_size=16).digest())
