"""Digests of blocks: what they hold, and all before it."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from penstock.engine.image_inputs import ImageInputs
    from penstock.engine.sequence import Adapter


def extend_digests(  # noqa: PLR0917 - all that a block's contents depend on
    digests: list[bytes],
    token_ids: Items[int],
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
