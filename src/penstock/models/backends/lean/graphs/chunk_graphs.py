"""Steps with chunks of prompts captured as graphs, one a bucket of token counts.

Launched one by one, the few hundred kernels of a step cost the host more than the device computes in
it, unless it has very many tokens; and one arriving prompt would make all that are being decoded
wait for that.
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
"""Of a step that is captured: with more, a device has more to do than the host that launches."""

PIECE: Final = 128
"""Tokens of a chunk that attention takes as one: a graph has room for so many, of any chunks."""

_STRIDES: Final = ((0, 16), (32, 32), (256, 64))
"""From how many tokens on, in which strides the token counts lie that are captured."""


def buckets(most: int) -> tuple[int, ...]:
    """The token counts that are captured."""
    sizes: list[int] = []
    size = 0
    while size < most:
        size += next(stride for first, stride in reversed(_STRIDES) if size >= first)
        sizes.append(size)
    return tuple(sizes)


def pieces(chunks: tuple[Chunk, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Chunks cut into pieces: first row, tokens, first position, row of the tables.

    A piece attends to the ones before it by the cache, where all keys of the step are already.
    """
    for chunk in chunks:
        for offset in range(0, chunk.count, PIECE):
            count = min(PIECE, chunk.count - offset)
            yield chunk.first + offset, count, chunk.start + offset, chunk.row


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a graph reads, one after the other in one buffer of int32.

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
    """Replays steps of which some sequences have several tokens. The engine's thread owns it.

    A step between two sizes is padded to the larger. Any row may be one that is decoded or one of a
    chunk, so attention over single tokens is told their positions apart from all rows'.
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
        """`compute` gives the last hidden states of a step, (T, hidden_size) of `kind`."""
        self.sizes = buckets(MOST_TOKENS)
        self._device = device
        self._compute = compute
        self._tables = tables
        self._chosen = chosen
        # One buffer of results for all: they are read before the next step.
        size = (MOST_TOKENS, hidden_size)
        self._hidden = torch.zeros(size, dtype=kind, device=device.torch_device)
        self._graphs: dict[int, _Graph] = {}
        self._stages = Stages(self._layout(self.sizes[-1]).total)

    def capture(self) -> None:
        """Capture every size, the largest first: the others fit into its memory."""
        for size in reversed(self.sizes):
            self._graphs[size] = self._capture(size)

    def run(self, packed: Packed) -> torch.Tensor | None:
        """The last hidden states (T, size) of a step, valid until the next; None for one too large."""
        count = packed.fields.shape[1]
        place = bisect_left(self.sizes, count)
        graph = self._graphs.get(self.sizes[place]) if place < len(self.sizes) else None
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
    """Lay a step out as its graph reads it."""
    write_padded(packed.fields, written[: layout.singles_at].reshape(FIELDS, layout.size))
    rest = written[layout.singles_at :]
    rest[:] = 0
    rest[: layout.singles] = PADDING
    rest[: packed.decodes] = packed.fields[1, : packed.decodes]
    rows = written[layout.pieces_at :].reshape(-1, 4)
    for row, piece in zip(rows, pieces(packed.chunks), strict=False):
        row[:] = piece
