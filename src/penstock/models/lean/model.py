"""The lean decoder as a model of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from penstock.engine.model import KVLayout
from penstock.models.lean import step as steps
from penstock.models.lean.choosing import Choosing
from penstock.models.lean.graphs import DecodeGraphs
from penstock.models.lean.ops import AttentionLayer, LayerCache
from penstock.models.lean.stages import Stages
from penstock.models.lean.tables import BlockTables
from penstock.models.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.lookahead import Draw, Flight
    from penstock.engine.model import Batch
    from penstock.models.devices.device import Device
    from penstock.models.lean.linear import Linear
    from penstock.models.lean.ops import Ops
    from penstock.models.lean.shape import Shape
    from penstock.models.lean.step import Packed, Step
    from penstock.models.lean.weights import Weights

DEFAULT_SEQUENCES: Final = 16


class LeanModel:
    """A Llama-like decoder over a paged KV cache. Only the engine's thread calls it.

    Steps of one token a sequence are replayed as graphs where the device has them; others are run
    kernel by kernel.
    """

    shows_hidden = True

    def __init__(
        self,
        shape: Shape,
        weights: Weights,
        rotary: tuple[torch.Tensor, torch.Tensor],
        ops: Ops,
        device: Device,
    ) -> None:
        self.shape = shape
        self.weights = weights
        self.ops = ops
        self.device = device
        self.vocab_size = shape.vocab_size
        self.context_length = shape.context_length
        self.max_sequences = DEFAULT_SEQUENCES
        self._rotary = rotary
        self._kind = weights.norm.dtype
        per_block = 2 * shape.layers * shape.kv_heads * BLOCK_SIZE * shape.head_size
        self.kv_layout = KVLayout(BLOCK_SIZE, per_block * self._kind.itemsize)
        self._stages = Stages(1 << 12)
        self._forget()

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`.

        :raises MemoryError: the device has not enough memory.
        """
        self._forget()
        shape, place = self.shape, self.device.torch_device
        size = (shape.layers, 2, blocks, shape.kv_heads, BLOCK_SIZE, shape.head_size)
        try:
            self._cache = torch.zeros(size, dtype=self._kind, device=place)
        except RuntimeError as error:
            wanted = blocks * self.kv_layout.bytes_per_block
            raise MemoryError(f"no memory for {wanted / 2**20:.0f} MiB of KV cache") from error
        cosines, sines = self._rotary
        self._layers = [
            AttentionLayer(
                shape, cosines, sines, weights.head_norms, window, LayerCache(cache[0], cache[1])
            )
            for weights, window, cache in zip(
                self.weights.layers, shape.windows, self._cache, strict=True
            )
        ]
        longest = -(-self.context_length // BLOCK_SIZE)
        self._tables = BlockTables(self.max_sequences, longest, place)
        self._chosen = torch.zeros(self.max_sequences, dtype=torch.int32, device=place)
        self._choosing = Choosing(self.ops, self._chosen, self.device)
        if blocks and self.device.captures:
            self._graphs = DecodeGraphs(
                self.device,
                self._logits,
                self._tables.tensor,
                self._chosen,
                self.vocab_size,
            )

    def capture(self) -> None:
        """Capture the decode graphs now, so that no request waits for them."""
        if self._graphs is not None:
            with torch.inference_mode():
                self._graphs.capture()

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32."""
        packed = self._pack(batch)
        if packed.logit_rows is None and self._graphs is not None and packed.decodes:
            return self._graphs.run(packed.fields)
        return self._head(self._wanted(packed, self._hidden(self._send(packed))))

    @torch.inference_mode()
    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `penstock.engine.model.HiddenModel`: (rows, vocab) and (rows, hidden), float32."""
        packed = self._pack(batch)
        hidden = self._wanted(packed, self._hidden(self._send(packed)))
        return self._head(hidden), hidden.float()

    @torch.inference_mode()
    def launch(self, batch: Batch, draws: Sequence[Draw], sources: Sequence[int]) -> Flight:
        """See `penstock.engine.lookahead.PipelinedModel`."""
        assert self._choosing is not None  # noqa: S101 - `allocate` comes first
        packed = self._pack(batch)
        packed.fields[4] = sources
        if self._graphs is not None:
            logits = self._graphs.run(packed.fields)
        else:
            logits = self._head(self._hidden(self._send(packed)))
        return self._choosing.begin(logits, draws)

    def copy_block(self, source: int, target: int) -> None:
        """See `penstock.engine.model.Model`."""
        self._cache[:, :, target] = self._cache[:, :, source]

    def release(self, key: int) -> None:
        """Give a sequence's row of the tables back."""
        self._tables.release(key)

    def _forget(self) -> None:
        self._cache = torch.empty(0)
        self._layers: list[AttentionLayer] = []
        self._tables = BlockTables(0, 1, self.device.torch_device)
        self._chosen = torch.empty(0, dtype=torch.int32)
        self._choosing: Choosing | None = None
        self._graphs: DecodeGraphs | None = None

    def _pack(self, batch: Batch) -> Packed:
        return steps.pack(batch, [self._tables.row_of(part) for part in batch.slices])

    def _send(self, packed: Packed) -> Step:
        """Copy a step to the device in one piece."""
        _, total = packed.fields.shape
        chunks = packed.chunks
        count = packed.fields.size + 4 * len(chunks)
        stage = self._stages.next(count)
        written = stage.numpy()
        written[: packed.fields.size] = packed.fields.reshape(-1)
        written[packed.fields.size :] = [
            value
            for chunk in chunks
            for value in (chunk.first, chunk.count, chunk.start, chunk.row)
        ]
        sent = stage.to(self.device.torch_device, non_blocking=True, copy=True)
        self._stages.sent(self.device)
        fields = sent[: packed.fields.size].view(steps.FIELDS, total)
        return steps.Step(
            fields,
            self._chosen,
            self._tables.tensor,
            packed.decodes,
            sent[packed.fields.size :].view(-1, 4) if chunks else None,
            max((chunk.count for chunk in chunks), default=0),
        )

    def _wanted(self, packed: Packed, hidden: torch.Tensor) -> torch.Tensor:
        """The rows whose logits the engine asked for."""
        rows = packed.logit_rows
        if rows is None:
            return hidden
        first = rows[0] if rows else 0
        if rows == list(range(first, first + len(rows))):
            return hidden[first : first + len(rows)]
        wanted = torch.tensor(rows, dtype=torch.int64)
        return hidden.index_select(0, wanted.to(self.device.torch_device))

    def _logits(self, step: Step) -> torch.Tensor:
        """(T, vocab) of every row of a step, in the model's type."""
        return self.ops.product(self._hidden(step), self.weights.head)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) -> logits (rows, vocab) float32."""
        if not len(hidden):
            return hidden.new_zeros((0, self.vocab_size), dtype=torch.float32)
        return self.ops.product(hidden, self.weights.head).float()

    def _hidden(self, step: Step) -> torch.Tensor:
        """Last hidden states, (T, hidden), in the model's type."""
        ops, layers, epsilon = self.ops, self.weights.layers, self.shape.epsilon
        residual = ops.embed(step, self.weights.embeddings)
        x = ops.norm(residual, layers[0].norm, epsilon)
        for index, layer in enumerate(layers):
            attention = self._layers[index]
            qkv = ops.product(x, layer.qkv)
            ops.rotate(qkv, step, attention)
            attended = ops.attend(qkv, step, attention)
            x = self._added(attended, layer.out, residual, layer.second_norm)
            gated = ops.gated(ops.product(x, layer.gate_up))
            last = index + 1 == len(layers)
            after = self.weights.norm if last else layers[index + 1].norm
            x = self._added(gated, layer.down, residual, after)
        return x

    def _added(
        self, x: torch.Tensor, linear: Linear, residual: torch.Tensor, norm: torch.Tensor
    ) -> torch.Tensor:
        """A product that goes into the residual stream, and the norm of the sum."""
        return self.ops.add_norm(self.ops.product(x, linear), residual, norm, self.shape.epsilon)
