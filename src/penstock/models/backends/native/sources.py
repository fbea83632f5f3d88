"""The checkpoint's rows that a decoder's matrices and biases consist of, in the kernels' order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.native import mixer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.models.architecture.description import Attention, Dense
    from penstock.models.architecture.latent import Latent
    from penstock.models.architecture.mixers import Mixer
    from penstock.models.architecture.rows import Rows


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of the checkpoint's matrix, in `order` if that differs from the stored order.

    Pairs of neighbours that are rotated together are moved apart by half of the rotated size, as the
    kernels turn them: queries and keys alike, so that their products stay what they are.
    """

    rows: Rows
    order: NDArray[np.int64] | None = None

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """What these rows are of all values, by row, of the checkpoint's tensor."""
        rows = self.rows
        if rows.run:
            starts = rows.first + rows.period * np.arange(rows.rows // rows.run)
            own = values[(starts[:, None] + np.arange(rows.run)).reshape(-1)]
        else:
            own = values[rows.first : rows.first + rows.rows]
        return own if self.order is None else own[self.order]


def qkv(attention: Attention) -> tuple[Source, ...]:
    """Return the parts of the product before attention."""
    if attention.latent is not None:
        return _latent_inputs(attention, attention.latent)
    order = head_order(attention)
    if attention.keys_of is not None:
        gate = () if attention.gate is None else (Source(attention.gate),)
        return (Source(attention.query, _by_head(order, attention.heads)), *gate)
    return (
        Source(attention.query, _by_head(order, attention.heads)),
        Source(attention.key, _by_head(order, attention.kv_heads)),
        Source(attention.value),
        *(() if attention.gate is None else (Source(attention.gate),)),
    )


def _latent_inputs(attention: Attention, latent: Latent) -> tuple[Source, ...]:
    """What queries are made of, then the compressed key."""
    query = (
        Source(attention.query, query_order(attention))
        if latent.query_down is None
        else Source(latent.query_down)
    )
    order = _behind(head_order(attention), latent.rank)
    return query, Source(latent.compressed, order), *_index_keys(latent)


def index_order(latent: Latent) -> NDArray[np.int64] | None:
    """Return the source position of each element of an index's heads; None if they keep their order."""
    index = latent.index
    if index is None or not index.interleaved:
        return None
    order = np.arange(index.size)
    order[: latent.turned] = order[: latent.turned].reshape(-1, 2).T.reshape(-1)
    return order


def index_queries(latent: Latent) -> tuple[Source, ...]:
    """Return the queries of a layer's index; none if it has none."""
    index = latent.index
    if index is None or index.query is None:
        return ()
    return (Source(index.query, _by_head(index_order(latent), index.heads)),)


def _index_keys(latent: Latent) -> tuple[Source, ...]:
    """What the index has of a token: its key, and the weights of its heads."""
    index = latent.index
    if index is None or index.key is None or index.weights is None:
        return ()
    return Source(index.key, index_order(latent)), Source(index.weights)


def query_order(attention: Attention) -> NDArray[np.int64] | None:
    """Return the order of latent attention, whose queries are rotated behind their plain part."""
    assert attention.latent is not None  # noqa: S101 - the callers have looked
    order = _behind(head_order(attention), attention.latent.plain)
    return _by_head(order, attention.heads)


def _behind(order: NDArray[np.int64] | None, count: int) -> NDArray[np.int64] | None:
    return None if order is None else np.concatenate((np.arange(count), count + order))


def mixer_parts(mixing: Mixer) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """Return the parts of a mixer's first product, and of its last."""
    return tuple(map(Source, mixer.inputs(mixing))), (Source(mixing.output),)


def gate_up(mlp: Dense) -> tuple[Source, ...]:
    """Return the parts of an MLP's first product."""
    return (*(() if mlp.gate is None else (Source(mlp.gate),)), Source(mlp.up))


def head_order(attention: Attention) -> NDArray[np.int64] | None:
    """Return the source position of each element of a head; None if they keep their order.

    Of latent attention: of each element of its turned part.
    """
    turning = attention.rotation
    if turning is None or not turning.interleaved:
        return None
    latent = attention.latent
    order = np.arange(attention.head_size if latent is None else latent.turned)
    order[: turning.size] = order[: turning.size].reshape(-1, 2).T.reshape(-1)
    return order


def _by_head(order: NDArray[np.int64] | None, heads: int) -> NDArray[np.int64] | None:
    if order is None:
        return None
    return (np.arange(heads)[:, None] * len(order) + order).reshape(-1)
