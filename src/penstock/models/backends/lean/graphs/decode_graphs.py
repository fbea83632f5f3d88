"""Decode steps captured as graphs: one for each bucket of batch sizes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from penstock.models.backends.lean.graphs.pinned_buffers import Stages
from penstock.models.backends.lean.graphs.step_rows import FIELDS, PADDING, Step, write_padded

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.devices.device import Device

_SMALL: Final = (1, 2, 4, 8)
_FINE: Final = 16
_FINE_UP_TO: Final = 64
_COARSE: Final = 32


def buckets(most: int) -> tuple[int, ...]:
    """Return the captured batch sizes, of which the last has room for `most` sequences."""
    sizes = [size for size in _SMALL if size < most]
    size = _FINE
    while size < most:
        sizes.append(size)
        size += _FINE if size < _FINE_UP_TO else _COARSE
    return (*sizes, most)


@dataclass(frozen=True, slots=True)
class _Graph:
    fields: torch.Tensor  # (FIELDS, bucket) int32 on the device
    replay: Callable[[], None]


class DecodeGraphs:
    """Replays steps of one token a sequence. A batch between two sizes is padded to the larger.

    `compute` makes a step's logits; uploads and graphs use separate buffers. Owned by the engine's
    thread.
    """

    def __init__(
        self,
        device: Device,
        compute: Callable[[Step], torch.Tensor],
        tables: torch.Tensor,
        chosen: torch.Tensor,
        vocab_size: int,
    ) -> None:
        most = len(chosen)
        self.sizes = buckets(most)
        self._device = device
        self._compute = compute
        self._tables = tables
        self._chosen = chosen
        self._graphs: dict[int, _Graph] = {}
        self._stages = Stages(FIELDS * most)
        # One buffer of results for all graphs: results are read before the next step.
        self._logits = torch.zeros((most, vocab_size), device=device.torch_device)

    def capture(self) -> None:
        """Capture every size, largest first, so that the others fit into its memory."""
        for size in reversed(self.sizes):
            self._capture(size)

    def run(self, fields: NDArray[np.int32]) -> torch.Tensor:
        """Return a step's logits (n, vocab), valid until the next; `fields` are (FIELDS, n) int32."""
        count = fields.shape[1]
        size = self.sizes[bisect_left(self.sizes, count)]
        graph = self._graphs.get(size) or self._capture(size)
        stage = self._stages.next(FIELDS * size).view(FIELDS, size)
        write_padded(fields, stage.numpy())
        graph.fields.copy_(stage, non_blocking=True)
        self._stages.sent(self._device)
        graph.replay()
        return self._logits[:count]

    def _capture(self, size: int) -> _Graph:
        fields = torch.zeros((FIELDS, size), dtype=torch.int32, device=self._device.torch_device)
        fields[1] = PADDING
        step = Step(fields, self._chosen, self._tables, decodes=size)
        logits = self._logits[:size]
        replay = self._device.capture(lambda: logits.copy_(self._compute(step)))
        graph = self._graphs[size] = _Graph(fields, replay)
        return graph
