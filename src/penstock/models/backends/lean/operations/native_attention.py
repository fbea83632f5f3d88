"""The lean decoder's attention by the native library, directly on the blocks of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.models.backends.native import attention as native
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    import torch

    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import AttentionLayer


class NativeAttention:
    """See `penstock.models.backends.lean.operations.ops.Attention`."""

    def __init__(self) -> None:
        self._attentions = {apart: native.Attention() for apart in (False, True)}
        self._steps: dict[bool, Step] = {}

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Rotate queries and keys of (T, qkv) in place; write keys and values to the cache."""
        attention = self._begin(step, layer)
        norms = layer.norms
        rotation = native.Rotation(
            layer.turning.cosines,
            layer.turning.sines,
            None if norms is None else norms.query,
            None if norms is None else norms.key,
            0.0 if norms is None else norms.epsilon,
        )
        attention.rotate(qkv, _layer(layer), rotation)

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Return attention of the step's queries over the cache, (T, heads * head_size)."""
        attention = self._begin(step, layer)
        sizes = layer.shape.sizes
        queries = qkv.view(len(qkv), -1, sizes.head_size)[:, : sizes.heads]
        return attention.attend(queries, _layer(layer)).view(len(qkv), -1)

    def _begin(self, step: Step, layer: AttentionLayer) -> native.Attention:
        """Pass a step's sequences to the library, once for all layers with the same blocks."""
        attention = self._attentions[layer.apart]
        if step is self._steps.get(layer.apart):
            return attention
        fields, decodes = step.fields.numpy(), step.decodes
        starts, owners = fields[1, :decodes], fields[2, :decodes]
        firsts = np.arange(decodes, dtype=np.int32)
        if step.chunks is not None:
            chunks = step.chunks.numpy()
            firsts = np.concatenate((firsts, chunks[:, 0]))
            starts = np.concatenate((starts, chunks[:, 2]))
            owners = np.concatenate((owners, chunks[:, 3]))
        begins = np.append(firsts, np.int32(step.count))
        longest = int((starts + np.diff(begins)).max())
        width = -(-longest // BLOCK_SIZE)
        tables = step.tables_of(apart=layer.apart).numpy()[owners, :width]
        attention.begin(
            past_lens=np.ascontiguousarray(starts),
            subsequence_begins=begins,
            block_indices=np.ascontiguousarray(tables).reshape(-1),
            block_indices_begins=np.arange(len(owners) + 1, dtype=np.int32) * np.int32(width),
            block_size=BLOCK_SIZE,
        )
        self._steps[layer.apart] = step
        return attention


def _layer(layer: AttentionLayer) -> native.Layer:
    cache, sizes = layer.cache, layer.shape.sizes
    return native.Layer(cache.keys, cache.values, sizes.heads, layer.window, layer.scale)
