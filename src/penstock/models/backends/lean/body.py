"""One device's part of a lean decoder: weights, cache, graphs, and the steps it is given."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from penstock.models.architecture import windows
from penstock.models.backends.lean.block_cache import BlockCache
from penstock.models.backends.lean.forward import Forward
from penstock.models.backends.lean.graphs import step_rows as steps
from penstock.models.backends.lean.graphs.chunk_graphs import ChunkGraphs
from penstock.models.backends.lean.graphs.decode_graphs import DecodeGraphs
from penstock.models.backends.lean.graphs.pinned_buffers import Stages
from penstock.models.backends.lean.operations.ops import AttentionLayer
from penstock.models.backends.lean.operations.token_choice import Choosing
from penstock.models.backends.lean.ranks import ALONE
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from penstock.engine.pipelining import Flight
    from penstock.models.backends.lean.adapters import StepAdapters
    from penstock.models.backends.lean.graphs.step_rows import Packed, Step
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.backends.lean.ranks import Ranks
    from penstock.models.backends.lean.shape import Shape, Turning
    from penstock.models.backends.lean.weights import Weights
    from penstock.models.devices.device import Device


logger = logging.getLogger(__name__)


class Body:
    """A `penstock.models.backends.lean.computer.Computer` of one device.

    `shape` is that of its own part: its heads, its columns of the MLP.

    Steps are replayed as graphs if the device has them; those of very many tokens are run kernel
    by kernel.
    """

    def __init__(
        self,
        shape: Shape,
        weights: Weights,
        turnings: Sequence[Turning],
        ops: Ops,
        device: Device,
    ) -> None:
        self.shape = shape
        self.weights = weights
        self.ops = ops
        self.device = device
        self.kind = weights.embeddings.dtype
        sliding = windows.sliding(shape.model, shape.context_length)
        self.cache = BlockCache(shape.sizes, self.kind, sliding)
        self._ranks: Ranks = ALONE
        self._turnings = turnings
        self._stages = Stages(1 << 12)
        self._forget()

    def meet(self, ranks: Ranks) -> None:
        """From now on compute with the others of the same model."""
        self._ranks = ranks

    def allocate(self, blocks: int, sequences: int) -> None:
        """See `Computer`."""
        self.device.enter()
        self._forget()
        shape, place, cache = self.shape, self.device.torch_device, self.cache
        cache.allocate(blocks, place)
        self._layers = [
            AttentionLayer(
                shape,
                turning,
                weights.head_norms,
                layer.attention.window,
                held,
                layer.attention.scale,
                layer.attention.soft_cap,
                weights.sinks,
                apart=cache.is_apart and index in cache.sliding.apart,
            )
            for index, (weights, layer, turning, held) in enumerate(
                zip(
                    self.weights.layers,
                    shape.model.layers,
                    self._turnings,
                    cache.layers(),
                    strict=True,
                )
            )
        ]
        longest = max(1, -(-shape.context_length // BLOCK_SIZE))
        self._tables = torch.zeros((sequences, longest), dtype=torch.int32, device=place)
        if cache.is_apart:  # the last column is for padding
            size = (sequences, longest + 1)
            self._window_tables = torch.zeros(size, dtype=torch.int32, device=place)
        self._chosen = torch.zeros(sequences, dtype=torch.int32, device=place)
        self._choosing = Choosing(self.ops, self._chosen, self.device)
        if blocks and self.device.captures:
            self._graphs = DecodeGraphs(
                self.device, self._logits, self._tables, self._chosen, shape.sizes.vocab_size
            )
            self._chunk_graphs = ChunkGraphs(
                self.device,
                self._hidden,
                self._tables,
                self._chosen,
                hidden_size=shape.sizes.hidden_size,
                kind=self.kind,
            )

    def capture(self) -> None:
        """See `Computer`."""
        self.device.enter()
        if self._graphs is None or self._chunk_graphs is None:
            return
        try:
            with torch.inference_mode():
                self._chunk_graphs.capture()
                self._graphs.capture()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a driver's fault has a fallback
            logger.warning("steps are not captured as graphs: %s", checkpoint.first_line(error))
            self._graphs = self._chunk_graphs = None

    @torch.inference_mode()
    def note(self, row: int, blocks: Sequence[int]) -> None:
        """See `Computer`."""
        self._note(self._tables, row, blocks)

    @torch.inference_mode()
    def note_windows(self, row: int, blocks: Sequence[int]) -> None:
        """The same of the blocks of layers that slide, which have some of their own."""
        assert self._window_tables is not None  # noqa: S101 - the caller has looked at the cache
        self._note(self._window_tables, row, blocks)

    def _note(self, tables: torch.Tensor, row: int, blocks: Sequence[int]) -> None:
        self.device.enter()
        sent = torch.tensor(blocks, dtype=torch.int32)
        tables[row, : len(sent)] = sent.to(tables.device)

    @torch.inference_mode()
    def compute(self, packed: Packed, *, hidden: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Computer`."""
        self.device.enter()
        if not hidden and packed.logit_rows is None and packed.decodes and not packed.images:
            return self._decoded(packed.fields, packed.adapters), None
        states = self._wanted(packed, self._states(packed))
        logits = self._head(states)
        return logits, states.to(torch.float32, copy=True) if hidden else None

    @torch.inference_mode()
    def launch(
        self,
        fields: NDArray[np.int32],
        draws: NDArray[np.int32],
        adapters: StepAdapters | None = None,
    ) -> Flight:
        """See `Computer`."""
        self.device.enter()
        assert self._choosing is not None  # noqa: S101 - `allocate` comes first
        return self._choosing.begin(self._decoded(fields, adapters), draws)

    def free_bytes(self) -> int:
        """See `Computer`."""
        return self.device.free_bytes()

    def leave(self) -> None:
        """Let go of cache and graphs, and of the other ranks.

        A communicator is not destroyed while there are graphs that captured it.
        """
        self._forget()
        self.device.free_bytes()
        self._ranks.close()
        self._ranks = ALONE

    def _forget(self) -> None:
        self.cache.clear()
        self._window_tables: torch.Tensor | None = None
        self._layers: list[AttentionLayer] = []
        self._tables = torch.empty(0, dtype=torch.int32)
        self._chosen = torch.empty(0, dtype=torch.int32)
        self._choosing: Choosing | None = None
        self._graphs: DecodeGraphs | None = None
        self._chunk_graphs: ChunkGraphs | None = None

    def _decoded(self, fields: NDArray[np.int32], adapters: StepAdapters | None) -> torch.Tensor:
        """Logits (n, vocab) float32 of a step of one token a sequence."""
        if self._graphs is not None and adapters is None:
            return self._graphs.run(fields)
        packed = steps.Packed(fields, fields.shape[1], (), None)
        return self._head(self._hidden(self._send(packed), adapters))

    def _states(self, packed: Packed) -> torch.Tensor:
        """Last hidden states (T, hidden) of a step; those of a graph are valid until the next."""
        graphs = self._chunk_graphs if packed.adapters is None and not packed.images else None
        replayed = None if graphs is None else graphs.run(packed)
        if replayed is not None:
            return replayed
        return self._hidden(self._send(packed), packed.adapters, packed.images)

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
            self._tables,
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
        return self._product_with_head(self._hidden(step))

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) -> logits (rows, vocab) float32."""
        if not len(hidden):
            return hidden.new_zeros((0, self.shape.sizes.vocab_size), dtype=torch.float32)
        return self._product_with_head(hidden).float()

    def _product_with_head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._ranks.join(self.ops.product(hidden, self.weights.head))
        logits, model = logits[:, : self.shape.sizes.vocab_size], self.shape.model
        if model.logit_scale != 1:
            logits = logits * model.logit_scale
        cap = model.logit_soft_cap
        return logits if not cap else torch.tanh(logits / cap) * cap

    def _hidden(
        self,
        step: Step,
        adapters: StepAdapters | None = None,
        images: Sequence[tuple[slice, torch.Tensor]] = (),
    ) -> torch.Tensor:
        """Last hidden states, (T, hidden), in the model's type."""
        if self._window_tables is not None:
            step = with_windows(step, self._window_tables)
        forward = Forward(self.shape, self.weights, self._layers, self.ops, self._ranks, adapters)
        return forward.run(step, images)


def with_windows(step: Step, tables: torch.Tensor) -> Step:
    """Write the step's blocks of layers that slide into their tables; return the step with these.

    The tables' last column takes those of padding.
    """
    positions = step.positions.long()
    columns = torch.where(positions < 0, tables.shape[1] - 1, positions // BLOCK_SIZE)
    tables[step.rows.long(), columns] = step.fields[5]
    return replace(step, window_tables=tables)
