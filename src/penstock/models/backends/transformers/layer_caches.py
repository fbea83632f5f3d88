"""The KV cache of a Transformers module: keys and values of each layer, in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from penstock.engine.model import KVLayout
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's keys and values; a token sees the last `window` tokens, 0 for all."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    window: int = 0

    @property
    def block_bytes(self) -> int:
        """Bytes that a block takes in this layer."""
        return BLOCK_SIZE * self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(slots=True)
class LayerCache:
    """Keys (slots, kv_heads, key_dim) and values (slots, kv_heads, value_dim) of one layer.

    `apart`: its blocks are those of layers with a window.
    """

    keys: torch.Tensor
    values: torch.Tensor
    apart: bool


class LayerCaches:
    """The caches of all layers, by the id of a layer's module, whose shapes are learned first."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.layers: dict[int, LayerCache] = {}
        self._apart: frozenset[int] = frozenset()
        self._window_blocks: int | None = None

    def lay_out(self, context_length: int) -> KVLayout:
        """Decide which layers slide: those with a window shorter than the context."""
        sliding = {
            layer: shape
            for layer, shape in self.shapes.items()
            if 0 < shape.window < context_length
        }
        if len(sliding) < len(self.shapes):
            self._apart = frozenset(sliding)
        window = max((shape.window for shape in sliding.values()), default=0)
        window_bytes = sum(shape.block_bytes for shape in sliding.values())
        return KVLayout(BLOCK_SIZE, self._bytes(self.shapes), window, window_bytes)

    def allocate_windows(self, blocks: int) -> None:
        """Have the layers that slide get so many blocks of their own when `allocate` is called."""
        self._window_blocks = blocks

    def allocate(self, blocks: int, device: torch.device) -> None:
        """Allocate the caches again. On a CPU the memory is taken page by page as it is written.

        :raises MemoryError: the device has not enough memory.
        """
        self.layers = {}
        try:
            for layer, shape in self.shapes.items():
                apart = layer in self._apart and self._window_blocks is not None
                own = self._window_blocks if apart and self._window_blocks is not None else blocks
                keys = (own * BLOCK_SIZE, shape.kv_heads, shape.key_dim)
                values = (own * BLOCK_SIZE, shape.kv_heads, shape.value_dim)
                self.layers[layer] = LayerCache(
                    torch.zeros(keys, dtype=shape.dtype, device=device),
                    torch.zeros(values, dtype=shape.dtype, device=device),
                    apart,
                )
        except RuntimeError as error:
            self.layers = {}
            size = blocks * self._bytes(self.shapes)
            raise MemoryError(f"no memory for {size / 2**20:.0f} MiB of KV cache") from error

    @property
    def block_format(self) -> str:
        """Shapes and types of all layers."""
        return " ".join(
            f"{number}:{shape.kv_heads}x{shape.key_dim}+{shape.value_dim}:{shape.dtype}"
            for number, shape in enumerate(self.shapes.values())
        )

    @torch.inference_mode()
    def read_block(self, block: int, *, apart: bool) -> bytes:
        """Return a block's keys and values, layer by layer, of layers that are `apart` or the others."""
        return b"".join(
            part.contiguous().view(torch.uint8).cpu().numpy().tobytes()
            for part in self._parts(block, apart=apart)
        )

    @torch.inference_mode()
    def write_block(self, block: int, content: bytes, *, apart: bool) -> bool:
        """Write a block's keys and values; False if their number of bytes is not right."""
        parts = list(self._parts(block, apart=apart))
        if len(content) != sum(part.numel() * part.itemsize for part in parts):
            return False
        source = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        start = 0
        for part in parts:
            size = part.numel() * part.itemsize
            part.copy_(source[start : start + size].view(part.dtype).view(part.shape))
            start += size
        return True

    def _parts(self, block: int, *, apart: bool) -> Iterator[torch.Tensor]:
        slots = slice(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
        for layer in self.layers.values():
            if layer.apart == apart:
                yield layer.keys[slots]
                yield layer.values[slots]

    @staticmethod
    def _bytes(shapes: dict[int, LayerShape]) -> int:
        return sum(shape.block_bytes for shape in shapes.values())
