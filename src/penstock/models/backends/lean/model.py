"""The lean decoder as a model of the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.engine.model import KVLayout, Mutual
from penstock.errors import ModelNotLoadable
from penstock.models.backends.lean import adapters
from penstock.models.backends.lean.graphs import step_rows as steps
from penstock.models.backends.lean.graphs.block_tables import BlockTables
from penstock.models.backends.lean.operations.token_choice import packed_draws
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.model import Batch
    from penstock.engine.pipelining import Draw, Flight
    from penstock.models.adapters.adapter import LowRank
    from penstock.models.backends.lean.adapters import LeanAdapter
    from penstock.models.backends.lean.body import Body
    from penstock.models.backends.lean.computer import Computer
    from penstock.models.backends.lean.graphs.step_rows import Packed
    from penstock.models.backends.lean.weights import Weights

DEFAULT_SEQUENCES: Final = 16


class LeanModel:
    """A Llama-like decoder over a paged KV cache. Only the engine's thread calls it.

    `computer` is the body itself, or what has it compute together with those of other devices.
    """

    shows_hidden = True

    def __init__(self, body: Body, computer: Computer | None = None) -> None:
        self.body = body
        self.vocab_size = body.shape.sizes.vocab_size
        self.context_length = body.shape.context_length
        self.max_sequences = DEFAULT_SEQUENCES
        self._computer: Computer = computer or body
        self.kv_layout = _layout(body, alone=self._computer is body)
        self._tables = self._new_tables(0)

    @property
    def weights(self) -> Weights:
        """What this process's device holds of the weights."""
        return self.body.weights

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`.

        :raises MemoryError: a device has not enough memory.
        """
        self._computer.allocate(blocks, self.max_sequences)
        self._tables = self._new_tables(self.max_sequences)

    def allocate_windows(self, blocks: int) -> None:
        """See `penstock.engine.model.WindowedModel`."""
        self.body.cache.window_blocks = blocks

    def _new_tables(self, rows: int) -> BlockTables:
        cache = self.body.cache
        note_windows = self.body.note_windows if cache.is_apart else None
        return BlockTables(rows, self._computer.note, note_windows, cache.sliding.size)

    @property
    def block_format(self) -> str:
        """See `penstock.engine.model.StorableModel`; empty on a GPU, where reading stops its queue."""
        body = self.body
        if self._computer is not body or body.device.torch_device.type != "cpu":
            return ""
        sizes = body.shape.sizes
        block = f"{sizes.layers}x{sizes.kv_heads}x{sizes.head_size}"
        apart = "".join(f" {layer}" for layer in sorted(body.cache.sliding.apart))
        return f"lean torch {torch.__version__} {block} {body.kind}{apart}"

    def read_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableModel`."""
        content = _read(self.body.cache.block(block, apart=False))
        return content if self.body.cache.is_apart else content + self.read_window_block(block)

    def write_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableModel`."""
        cache = self.body.cache
        own, rest = content[: cache.full_bytes], content[cache.full_bytes :]
        if cache.is_apart and rest:
            return False
        if not _written(cache.block(block, apart=False), own):
            return False
        return cache.is_apart or self.write_window_block(block, rest)

    def read_window_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableWindows`."""
        cache = self.body.cache
        return _read(cache.block(block, apart=True)) if cache.window_bytes else b""

    def write_window_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableWindows`."""
        cache = self.body.cache
        if not cache.window_bytes:
            return not content
        return _written(cache.block(block, apart=True), content)

    def capture(self) -> None:
        """Capture the decode graphs now, so that no request waits for them."""
        self._computer.capture()

    def free_bytes(self) -> int:
        """Memory that can still be taken on each device of the model."""
        return self._computer.free_bytes()

    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32."""
        logits, _ = self._computer.compute(self._pack(batch), hidden=False)
        return logits

    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `penstock.engine.model.HiddenModel`: (rows, vocab) and (rows, hidden), float32."""
        logits, hidden = self._computer.compute(self._pack(batch), hidden=True)
        assert hidden is not None  # noqa: S101 - it was asked for
        return logits, hidden

    def release(self, key: int) -> None:
        """Give a sequence's row of the tables back."""
        self._tables.release(key)

    def take_adapter(self, adapter: LowRank) -> LeanAdapter:
        """See `penstock.models.adapters.adapter.AdapterModel`."""
        if self._computer is not self.body:
            raise ModelNotLoadable(f"{adapter.path}: no adapters for a model over several GPUs")
        if self.body.shape.is_padded:
            size = self.body.shape.model.layers[0].attention.head_size
            raise ModelNotLoadable(f"{adapter.path}: no adapters for heads of {size} elements")
        return adapters.place(
            adapter, self.body.shape, self.body.device.torch_device, self.body.kind
        )

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """See `penstock.engine.model.ImageModel`: embeddings of one device, and nothing else."""
        return self._computer is self.body and rotary is None and mutual is Mutual.NOWHERE

    def _pack(self, batch: Batch) -> Packed:
        packed = steps.pack(batch, [self._tables.row_of(part) for part in batch.slices])
        if batch.has_images:
            spans = batch.image_spans(packed.first_rows)
            images = tuple((rows, span.embeddings[own]) for span, own, rows in spans)
            packed = replace(packed, images=images)
        own = adapters.of_step(batch, packed.first_rows, self.body.device.torch_device)
        return packed if own is None else replace(packed, adapters=own)


def _layout(body: Body, *, alone: bool) -> KVLayout:
    """What a block takes. Over several devices layers that slide have no blocks of their own."""
    cache = body.cache
    size = cache.full_bytes + cache.window_bytes
    window, apart = cache.sliding.size, cache.sliding.apart
    if not window or (apart and not alone):
        return KVLayout(BLOCK_SIZE, size)
    return KVLayout(BLOCK_SIZE, size, window, cache.window_bytes or size)


def _read(block: torch.Tensor) -> bytes:
    return block.contiguous().view(torch.uint8).numpy().tobytes()


def _written(block: torch.Tensor, content: bytes) -> bool:
    """Write a block's keys and values; False if their number of bytes is not right."""
    if len(content) != block.numel() * block.itemsize:
        return False
    block.copy_(torch.frombuffer(bytearray(content), dtype=block.dtype).view(block.shape))
    return True


class PipelinedLean(LeanModel):
    """The same on a device beside the host, which can begin a step before the host knows the last."""

    def launch(self, batch: Batch, draws: Sequence[Draw], sources: Sequence[int]) -> Flight:
        """See `penstock.engine.pipelining.PipelinedModel`."""
        packed = self._pack(batch)
        packed.fields[4] = sources
        return self._computer.launch(packed.fields, packed_draws(draws), packed.adapters)
