"""The images of a step as the kernels take them: a row's address for each token that has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.engine.model import Batch

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class StepImages:
    """Addresses of rows, (tokens) uint64 each, 0 for none; `added` is (layers, tokens).

    `rows` keeps what they point into.
    """

    embedded: NDArray[np.uint64]
    turned: NDArray[np.uint64] | None
    added: NDArray[np.uint64]
    rows: list[torch.Tensor]

    @classmethod
    def of(cls, batch: Batch, tokens: int, rotary: Any | None) -> StepImages | None:
        """Lay out a batch's images; None for a batch of text."""
        if all(part.images is None for part in batch.slices):
            return None
        embedded = np.zeros(tokens, np.uint64)
        layers = max(
            (len(span.layer_features) for part in batch.slices if part.images is not None
             for span in part.images.spans), default=0,
        )  # fmt: skip
        added = np.zeros((layers, tokens), np.uint64)
        turned = None if rotary is None else np.zeros(tokens, np.uint64)
        kept: list[torch.Tensor] = []
        first = 0
        for part in batch.slices:
            count = len(part.token_ids)
            if part.images is not None:
                for span, own, rows in part.images.within(part.start, part.start + count):
                    into = slice(first + rows.start, first + rows.stop)
                    embedded[into] = _addresses(span.embeddings, own, kept)
                    for layer, features in enumerate(span.layer_features):
                        added[layer, into] = _addresses(features, own, kept)
                if turned is not None:
                    turns = _turns(rotary, part.images.turns(part.start, part.start + count))
                    turned[first : first + count] = _addresses(turns, slice(0, count), kept)
            first += count
        return cls(embedded, turned, added, kept)

    def native(self) -> tuple[Any, Any, Any, int]:
        """Return the last fields of `StepInput`."""
        turned = None if self.turned is None else self.turned.ctypes.data
        layers = len(self.added)
        added = self.added.ctypes.data if layers else None
        return self.embedded.ctypes.data, turned, added, layers


def _addresses(tensor: torch.Tensor, rows: slice, kept: list[torch.Tensor]) -> NDArray[np.uint64]:
    """The addresses of a tensor's rows, which must be float32 and lie one after another."""
    floats = tensor.float().contiguous()
    kept.append(floats)
    stride = floats.shape[1] * _FLOAT_BYTES
    return floats.data_ptr() + np.arange(rows.start, rows.stop, dtype=np.uint64) * stride


@torch.inference_mode()
def _turns(rotary: Any, positions: torch.Tensor) -> torch.Tensor:
    """Cosines, then sines, of positions (3, tokens): (tokens, 2 * size)."""
    cosines, sines = rotary(torch.zeros(1), positions[:, None])
    return torch.cat((cosines[0], sines[0]), dim=1)
