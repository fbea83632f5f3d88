"""Keys and values of a device's layers, in blocks."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from penstock.models.backends.lean.operations.ops import LayerCache
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.architecture.windows import Sliding
    from penstock.models.backends.lean.shape import Sizes


class BlockCache:
    """The KV cache: one tensor for layers that see all, one for those that slide beside them.

    The latter have as many blocks as the former, or `window_blocks` of their own. `full_bytes` and
    `window_bytes` are those of a block.
    """

    def __init__(self, sizes: Sizes, kind: torch.dtype, sliding: Sliding) -> None:
        self.sliding = sliding
        self._sizes, self._kind = sizes, kind
        self._apart = sorted(sliding.apart)
        self.full_bytes = self._bytes(sizes.layers - len(self._apart))
        self.window_bytes = self._bytes(len(self._apart))
        self.window_blocks: int | None = None
        self.clear()

    @property
    def is_apart(self) -> bool:
        """Whether layers that slide have blocks of their own."""
        return self.window_blocks is not None and bool(self._apart)

    def clear(self) -> None:
        """Let go of the memory."""
        self._full = self._windows = torch.empty(0)

    def allocate(self, blocks: int, place: torch.device) -> None:
        """Allocate zeros for `blocks` blocks, after `clear`.

        :raises MemoryError: the device has not enough memory.
        """
        windows = blocks if self.window_blocks is None else self.window_blocks
        layers = self._sizes.layers - len(self._apart)
        try:
            self._full = self._zeros(layers, blocks, place)
            self._windows = self._zeros(len(self._apart), windows, place)
        except RuntimeError as error:
            self.clear()
            size = blocks * self.full_bytes + windows * self.window_bytes
            raise MemoryError(f"no memory for {size / 2**20:.0f} MiB of KV cache") from error

    def layers(self) -> list[LayerCache]:
        """Return each layer's part."""
        full, windows = iter(self._full), iter(self._windows)
        return [
            LayerCache(*next(windows if layer in self.sliding.apart else full))
            for layer in range(self._sizes.layers)
        ]

    def block(self, block: int, *, apart: bool) -> torch.Tensor:
        """Return a block's keys and values: (layers, 2, heads, tokens, size of a head).

        Those of the layers that slide, if `apart`, or those of the others.
        """
        return (self._windows if apart else self._full)[:, :, block]

    def _size(self, layers: int, blocks: int) -> tuple[int, ...]:
        """Layers, keys and values, blocks, heads, tokens, size of a head."""
        return layers, 2, blocks, self._sizes.kv_heads, BLOCK_SIZE, self._sizes.head_size

    def _bytes(self, layers: int) -> int:
        return prod(self._size(layers, 1)) * self._kind.itemsize

    def _zeros(self, layers: int, blocks: int, place: torch.device) -> torch.Tensor:
        return torch.zeros(self._size(layers, blocks), dtype=self._kind, device=place)
