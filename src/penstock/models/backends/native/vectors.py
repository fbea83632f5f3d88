"""A decoder's norms and biases, as the kernels take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Experts, dense_part
from penstock.models.backends.native import expert_packing, mixer
from penstock.models.backends.native.layout import Vector
from penstock.models.backends.native.packing import (
    Source,
    gate_up,
    head_order,
    mixer_parts,
    qkv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture, Attention, Layer, Norm
    from penstock.models.weights.source import Weights


def vectors(
    model: Architecture, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    """Yield every norm and bias of a model, each with its place and layer.

    :raises ModelNotLoadable: the checkpoint lacks a norm, or has one of another size.
    """
    for index, layer in enumerate(model.layers):
        for which, norm in _norms(layer).items():
            yield from _norm(which, index, norm, weights)
        for which, vector in _head_norms(layer.attention, weights):
            yield which, index, vector
        if layer.mixer is not None:
            for which, vector in mixer.vectors(layer.mixer, weights):
                yield which, index, vector
        for which, parts in _biased(layer).items():
            bias = _bias(parts, weights)
            if bias is not None:
                yield which, index, bias
        if isinstance(layer.mlp, Experts):
            yield from expert_packing.vectors(index, layer.mlp, model.hidden_size, weights)
        if layer.attention.sinks is not None:
            yield Vector.SINKS, index, weights.vector(layer.attention.sinks)
    yield from _norm(Vector.FINAL_NORM, 0, model.norm, weights)


def _norms(layer: Layer) -> dict[Vector, Norm]:
    places = {
        Vector.INPUT_NORM: layer.attention_in,
        Vector.ATTENTION_OUT_NORM: layer.attention_out,
        Vector.ATTENTION_NORM: layer.mlp_in,
        Vector.MLP_OUT_NORM: layer.mlp_out,
    }
    return {which: norm for which, norm in places.items() if norm is not None}


def _biased(layer: Layer) -> dict[Vector, tuple[Source, ...]]:
    """The products of a layer that may have biases, by the bias of each."""
    biased: dict[Vector, tuple[Source, ...]] = {}
    if layer.attends:
        biased[Vector.QKV_BIAS] = qkv(layer.attention)
        biased[Vector.OUTPUT_BIAS] = (Source(layer.attention.output),)
    if layer.mixer is not None:
        ins, out = mixer_parts(layer.mixer)
        biased |= {Vector.MIXER_IN_BIAS: ins, Vector.MIXER_OUT_BIAS: out}
    mlp = dense_part(layer.mlp)
    if mlp is not None and mlp.size:
        biased |= {Vector.GATE_UP_BIAS: gate_up(mlp), Vector.DOWN_BIAS: (Source(mlp.down),)}
    return biased


_NORM_BIASES: Final = {
    Vector.INPUT_NORM: Vector.INPUT_NORM_BIAS,
    Vector.ATTENTION_NORM: Vector.ATTENTION_NORM_BIAS,
    Vector.FINAL_NORM: Vector.FINAL_NORM_BIAS,
}


def _norm(
    which: Vector, layer: int, norm: Norm, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    yield which, layer, weights.vector(f"{norm.name}.weight") + np.float32(norm.offset)
    bias = f"{norm.name}.bias"
    if norm.kind == "layer" and which in _NORM_BIASES and weights.has(bias):
        yield _NORM_BIASES[which], layer, weights.vector(bias)


def _head_norms(
    attention: Attention, weights: Weights
) -> Iterator[tuple[Vector, NDArray[np.float32]]]:
    """Yield the norms of queries and keys, a weight for each element of each head."""
    norms, order = attention.head_norms, head_order(attention)
    if norms is None:
        return
    for which, names, heads in (
        (Vector.QUERY_NORM, norms.query, attention.heads),
        (Vector.KEY_NORM, norms.key, attention.kv_heads),
    ):
        parts = [weights.vector(f"{name}.weight").reshape(-1) for name in names]
        own = np.concatenate(parts) + np.float32(norms.offset)
        if own.size not in (attention.head_size, heads * attention.head_size):
            raise ModelNotLoadable(f"{names[0]} has {own.size} elements")
        own = np.resize(own, (heads, attention.head_size))
        yield which, own if order is None else own[:, order]


def _bias(parts: tuple[Source, ...], weights: Weights) -> NDArray[np.float32] | None:
    """Return the biases of a plan's parts, zeros for those without; None if none has any."""
    names = [f"{part.rows.name}.bias" for part in parts]
    if not any(weights.has(name) for name in names):
        return None
    return np.concatenate(
        [
            part.of(weights.vector(name))
            if weights.has(name)
            else np.zeros(part.rows.rows, np.float32)
            for part, name in zip(parts, names, strict=True)
        ]
    )
