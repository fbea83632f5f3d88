"""The images of a step as the kernels take them: a row's address for each token that has one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.models.vision.turning import cosines_and_sines

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
        if not batch.has_images:
            return None
        first_rows = [0, *accumulate(len(part.token_ids) for part in batch.slices)][:-1]
        spans = list(batch.image_spans(first_rows))
        layers = max((len(span.layer_features) for span, _, _ in spans), default=0)
        embedded = np.zeros(tokens, np.uint64)
        added = np.zeros((layers, tokens), np.uint64)
        turned = None if rotary is None else np.zeros(tokens, np.uint64)
        kept: list[torch.Tensor] = []
        for span, own, rows in spans:
            embedded[rows] = _addresses(span.embeddings, own, kept)
            for layer, features in enumerate(span.layer_features):
                added[layer, rows] = _addresses(features, own, kept)
        if turned is not None:
            for rows, positions in batch.image_turns(first_rows):
                turns = torch.cat(cosines_and_sines(rotary, positions), dim=1)
                turned[rows] = _addresses(turns, slice(0, len(turns)), kept)
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
