"""A decoder's norms and biases in the kernels' layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Experts, dense_part
from penstock.models.backends.native import mixer
from penstock.models.backends.native.layout import Vector
from penstock.models.backends.native.mixtures import expert_packing
from penstock.models.backends.native.sources import (
    Source,
    gate_up,
    head_order,
    index_order,
    mixer_parts,
    qkv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture, Attention, Layer
    from penstock.models.architecture.elements import Norm
    from penstock.models.weights.source import Weights


def vectors(
    model: Architecture, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    """Every norm and bias of a model.

    :raises ModelNotLoadable: the checkpoint lacks a norm, or has one of another size.
    """
    for index, layer in enumerate(model.layers):
        for which, norm in _norms(layer).items():
            yield from _norm(which, index, norm, weights)
        for which, vector in _of_layer(layer, weights):
            yield which, index, vector
        if isinstance(layer.mlp, Experts):
            yield from expert_packing.vectors(index, layer.mlp, model.hidden_size, weights)
    yield from _norm(Vector.FINAL_NORM, 0, model.norm, weights)
    if model.inputs is not None:
        yield from _norm(Vector.LAYER_INPUTS_NORM, 0, model.inputs.norm, weights)


def _of_layer(layer: Layer, weights: Weights) -> Iterator[tuple[Vector, NDArray[np.float32]]]:
    yield from _head_norms(layer.attention, weights)
    yield from _latent_norms(layer.attention, weights)
    if layer.scale is not None:
        yield Vector.LAYER_SCALE, weights.vector(layer.scale)
    if layer.mixer is not None:
        yield from mixer.vectors(layer.mixer, weights)
    for which, parts in _biased(layer).items():
        bias = _bias(parts, weights)
        if bias is not None:
            yield which, bias
    if layer.attention.sinks is not None:
        yield Vector.SINKS, weights.vector(layer.attention.sinks)


def _norms(layer: Layer) -> dict[Vector, Norm]:
    places = {
        Vector.INPUT_NORM: layer.attention_in,
        Vector.ATTENTION_OUT_NORM: layer.attention_out,
        Vector.ATTENTION_NORM: layer.mlp_in,
        Vector.MLP_OUT_NORM: layer.mlp_out,
        Vector.INPUT_OUT_NORM: None if layer.own_input is None else layer.own_input.norm,
    }
    if layer.detour is not None:
        places[Vector.MIXER_INPUT_NORM] = layer.detour.mixer_in
    if isinstance(layer.mlp, Experts) and layer.mlp.apart is not None:
        apart = layer.mlp.apart
        places[Vector.EXPERTS_IN_NORM] = apart.experts_in
        places[Vector.DENSE_OUT_NORM] = apart.dense_out
        places[Vector.EXPERTS_OUT_NORM] = apart.experts_out
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
    if attention.value_norm is not None:
        yield Vector.VALUE_NORM, np.ones(attention.head_size, np.float32)
    norms, order = attention.head_norms, head_order(attention)
    if norms is None:
        return
    for which, names, heads in (
        (Vector.QUERY_NORM, norms.query, attention.heads),
        (Vector.KEY_NORM, norms.key, attention.kv_heads),
    ):
        if which is Vector.KEY_NORM and attention.keys_of is not None:
            continue
        parts = [weights.vector(f"{name}.weight").reshape(-1) for name in names]
        own = np.concatenate(parts) + np.float32(norms.offset)
        if own.size not in (attention.head_size, heads * attention.head_size):
            raise ModelNotLoadable(f"{names[0]} has {own.size} elements")
        own = np.resize(own, (heads, attention.head_size))
        yield which, own if order is None else own[:, order]


def _latent_norms(
    attention: Attention, weights: Weights
) -> Iterator[tuple[Vector, NDArray[np.float32]]]:
    latent = attention.latent
    if latent is None:
        return
    yield Vector.LATENT_NORM, weights.vector(f"{latent.norm.name}.weight")
    if latent.query_norm is not None:
        yield Vector.QUERY_RANK_NORM, weights.vector(f"{latent.query_norm.name}.weight")
    if latent.index is not None and latent.index.norm is not None:
        name, order = latent.index.norm.name, index_order(latent)
        own = {Vector.INDEX_NORM: "weight", Vector.INDEX_NORM_BIAS: "bias"}
        for which, part in own.items():
            vector = weights.vector(f"{name}.{part}")
            yield which, vector if order is None else vector[order]


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
