"""Attention of Transformers' modules over our cache by the native library, if it supports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.native import attention as native
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from penstock.models.backends.steps import MaskRule, Step


class NativePaged:
    """What `penstock.models.backends.transformers.attention.PagedAttention` asks first; the engine's thread owns it."""

    def __init__(self) -> None:
        """:raises ModelNotLoadable: the library is not there."""
        self._attention = native.Attention()
        self._step: Step | None = None

    def attend(
        self,
        step: Step,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        rule: MaskRule,
        options: dict[str, Any],
    ) -> torch.Tensor | None:
        """Query (1, heads, T, D) over (slots, kv_heads, D) -> (1, T, heads, D); None: not by this.

        Plain causal attention is by this, on a CPU; other masks, soft caps and sinks are not.
        """
        size = keys.shape[2]
        plain = rule.plain_causal and options["softcap"] is None and options["sinks"] is None
        if (
            not plain
            or keys.device.type != "cpu"
            or values.shape != keys.shape
            or query.dtype != keys.dtype
            or query.stride(3) != 1
            or query.dtype not in native.ELEMENTS
            or not native.fits(size)
        ):
            return None
        if step is not self._step:
            self._attention.begin(**_sequences(step), block_size=BLOCK_SIZE)
            self._step = step
        scale = options["scale"]
        layer = native.Layer(
            _blocks(keys),
            _blocks(values),
            query.shape[1],
            window=0,
            scale=size**-0.5 if scale is None else scale,
        )
        return self._attention.attend(query[0].transpose(0, 1), layer)[None]


def _blocks(store: torch.Tensor) -> torch.Tensor:
    """(slots, heads, D) as (blocks, heads, BLOCK_SIZE, D)."""
    return store.view(-1, BLOCK_SIZE, *store.shape[1:]).transpose(1, 2)


def _sequences(step: Step) -> dict[str, NDArray[np.int32]]:
    """A step's sequences in the order of its rows."""
    starts: list[NDArray[np.int64]] = []
    counts: list[int] = []
    tables: list[NDArray[np.int64]] = []
    widths: list[int] = []
    for group in step.decodes:
        rows, width = group.table.shape
        starts.append(group.positions.numpy()[:, 0])
        counts += [1] * rows
        tables.append(group.table.numpy().reshape(-1))
        widths += [width] * rows
    for chunk in step.prefills:
        starts.append(np.array([chunk.start]))
        counts.append(chunk.last - chunk.first)
        tables.append(chunk.blocks.numpy())
        widths.append(len(chunk.blocks))
    return {
        "past_lens": np.concatenate(starts, dtype=np.int32, casting="same_kind"),
        "subsequence_begins": np.cumsum([0, *counts], dtype=np.int32),
        "block_indices": np.concatenate(tables, dtype=np.int32, casting="same_kind"),
        "block_indices_begins": np.cumsum([0, *widths], dtype=np.int32),
    }
