"""Steps with chunks of prompts, captured as graphs: one for each bucket of token counts.

Launched one by one, the several hundred kernels of a step cost the host more time than the device
needs to compute them, unless there are very many tokens; and a single arriving prompt would delay
all sequences that are decoding.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.models.backends.lean.graphs.pinned_buffers import Stages
from penstock.models.backends.lean.graphs.step_rows import FIELDS, PADDING, Step, write_padded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.backends.lean.graphs.step_rows import Chunk, Packed
    from penstock.models.devices.device import Device

MOST_TOKENS: Final = 1024
"""Most tokens of a captured step: beyond, the device has more to do than the launching host."""

PIECE: Final = 128
"""Tokens that attention processes as one piece: a graph has room for a number of pieces."""

_STRIDES: Final = ((0, 16), (32, 32), (256, 64))
"""Captured token counts: (from, stride)."""


def buckets(most: int) -> tuple[int, ...]:
    """Return the token counts that are captured."""
    sizes: list[int] = []
    size = 0
    while size < most:
        size += next(stride for first, stride in reversed(_STRIDES) if size >= first)
        sizes.append(size)
    return tuple(sizes)


def pieces(chunks: tuple[Chunk, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Yield chunks in pieces: (first row, tokens, first position, row of the tables).

    A piece attends to earlier ones through the cache, which already has all keys of the step.
    """
    for chunk in chunks:
        for offset in range(0, chunk.count, PIECE):
            count = min(PIECE, chunk.count - offset)
            yield chunk.first + offset, count, chunk.start + offset, chunk.row


@dataclass(frozen=True, slots=True)
class _Layout:
    """A graph's inputs, one after the other in a buffer of int32.

    Fields (FIELDS, size), positions of single tokens (singles,), and pieces (pieces, 4).
    """

    size: int
    singles: int
    pieces: int

    @property
    def singles_at(self) -> int:
        return FIELDS * self.size

    @property
    def pieces_at(self) -> int:
        return self.singles_at + self.singles

    @property
    def total(self) -> int:
        return self.pieces_at + 4 * self.pieces


@dataclass(frozen=True, slots=True)
class _Graph:
    layout: _Layout
    sent: torch.Tensor  # (layout.total,) int32 on the device
    replay: Callable[[], None]


class ChunkGraphs:
    """Replays steps in which some sequences have several tokens. Owned by the engine's thread.

    A step between two sizes is padded to the larger. Any row may be a decode or belong to a chunk,
    so attention over single tokens gets their positions separately from those of all rows.
    """

    def __init__(
        self,
        device: Device,
        compute: Callable[[Step], torch.Tensor],
        tables: torch.Tensor,
        chosen: torch.Tensor,
        *,
        hidden_size: int,
        kind: torch.dtype,
    ) -> None:
        """`compute` returns the last hidden states of a step, (T, hidden_size) of `kind`."""
        self.sizes = buckets(MOST_TOKENS)
        self._device = device
        self._compute = compute
        self._tables = tables
        self._chosen = chosen
        # One buffer of results for all graphs: results are read before the next step.
        size = (MOST_TOKENS, hidden_size)
        self._hidden = torch.zeros(size, dtype=kind, device=device.torch_device)
        self._graphs: dict[int, _Graph] = {}
        self._stages = Stages(self._layout(self.sizes[-1]).total)

    def capture(self) -> None:
        """Capture every size, largest first, so that the others fit into its memory."""
        for size in reversed(self.sizes):
            self._graphs[size] = self._capture(size)

    def run(self, packed: Packed) -> torch.Tensor | None:
        """Return hidden states (T, size), valid until the next step; None for too large a step."""
        count = packed.fields.shape[1]
        index = bisect_left(self.sizes, count)
        graph = self._graphs.get(self.sizes[index]) if index < len(self.sizes) else None
        if graph is None:
            return None
        stage = self._stages.next(graph.layout.total)
        _write(stage.numpy(), graph.layout, packed)
        graph.sent.copy_(stage, non_blocking=True)
        self._stages.sent(self._device)
        graph.replay()
        return self._hidden[:count]

    def _layout(self, size: int) -> _Layout:
        sequences = len(self._chosen)
        return _Layout(size, min(size, sequences), -(-size // PIECE) + min(size, sequences))

    def _capture(self, size: int) -> _Graph:
        layout = self._layout(size)
        sent = torch.zeros(layout.total, dtype=torch.int32, device=self._device.torch_device)
        fields = sent[: layout.singles_at].view(FIELDS, size)
        fields[1] = PADDING
        singles = sent[layout.singles_at : layout.singles_at + layout.singles]
        singles.fill_(PADDING)
        step = Step(
            fields,
            self._chosen,
            self._tables,
            decodes=layout.singles,
            chunks=sent[layout.pieces_at :].view(-1, 4),
            longest_chunk=min(size, PIECE),
            singles=singles,
        )
        hidden = self._hidden[:size]
        replay = self._device.capture(lambda: hidden.copy_(self._compute(step)))
        return _Graph(layout, sent, replay)


def _write(written: NDArray[np.int32], layout: _Layout, packed: Packed) -> None:
    """Write a step in its graph's layout."""
    write_padded(packed.fields, written[: layout.singles_at].reshape(FIELDS, layout.size))
    rest = written[layout.singles_at :]
    rest[:] = 0
    rest[: layout.singles] = PADDING
    rest[: packed.decodes] = packed.fields[1, : packed.decodes]
    rows = written[layout.pieces_at :].reshape(-1, 4)
    for row, piece in zip(rows, pieces(packed.chunks), strict=False):
        row[:] = piece
