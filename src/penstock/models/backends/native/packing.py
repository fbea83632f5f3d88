"""A decoder's weights in the kernels' layout: fused if one input feeds several matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Experts, Rows, dense_part
from penstock.models.architecture.mixers import mixer_size
from penstock.models.backends.native import expert_packing, mixer
from penstock.models.backends.native.expert_packing import ExpertPlan
from penstock.models.backends.native.layout import Vector, Which
from penstock.models.backends.native.library import ALIGNMENT
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import (
        Architecture,
        Attention,
        Dense,
        Layer,
        Norm,
    )
    from penstock.models.architecture.mixers import Mixer
    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Matrix, Weights

FORMATS: Final[tuple[Format, ...]] = ("sym_int4", "int4", "int8", "stored")
_BY_GROUP: Final = {
    "i4": Kind.I4,
    "z4": Kind.Z4,
    "z8": Kind.Z8,
    "a4": Kind.A4,
    "a8": Kind.A8,
}
_INT8_GROUP: Final = 128
"""Activations that share a scale if the weights have one for each row."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """One packed matrix: its place in the model, and the checkpoint's matrices that it consists of."""

    which: Which
    layer: int
    layout: Layout
    columns: int
    parts: tuple[Source, ...]

    @property
    def key(self) -> str:
        """Its name in a file of converted weights."""
        return f"{self.layer}.{self.which.name.lower()}"

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows.rows for part in self.parts)


def plans(model: Architecture, weights: Weights) -> Iterator[Plan | ExpertPlan]:
    """Yield every matrix of a model, layer by layer, the head last."""
    hidden = model.hidden_size
    for index, layer in enumerate(model.layers):
        attention, mlp = layer.attention, dense_part(layer.mlp)
        if layer.attends:
            across = attention.heads * attention.head_size
            yield Plan(Which.QKV, index, Layout.STACKED, hidden, _qkv(attention))
            yield Plan(Which.OUTPUT, index, Layout.STACKED, across, (Source(attention.output),))
        if layer.mixer is not None:
            ins, out = _mixer_parts(layer.mixer)
            yield Plan(Which.MIXER_IN, index, Layout.STACKED, hidden, ins)
            yield Plan(Which.MIXER_OUT, index, Layout.STACKED, mixer_size(layer.mixer), out)
        if mlp is not None and mlp.size:
            layout = Layout.STACKED if mlp.gate is None else Layout.PAIRED
            yield Plan(Which.GATE_UP, index, layout, hidden, _gate_up(mlp))
            yield Plan(Which.DOWN, index, Layout.STACKED, mlp.size, (Source(mlp.down),))
        if isinstance(layer.mlp, Experts):
            yield from expert_packing.plans(index, layer.mlp, hidden, weights)
    tied = model.tied and not weights.has(f"{model.head.name}.weight")
    head = Rows(model.embeddings, model.vocab_size) if tied else model.head
    yield Plan(Which.HEAD, 0, Layout.STACKED, hidden, (Source(head),))


def _qkv(attention: Attention) -> tuple[Source, ...]:
    order = _order(attention)
    return (
        Source(attention.query, _by_head(order, attention.heads)),
        Source(attention.key, _by_head(order, attention.kv_heads)),
        Source(attention.value),
        *(() if attention.gate is None else (Source(attention.gate),)),
    )


def _mixer_parts(mixing: Mixer) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """The parts of a mixer's first product, and of its last."""
    return tuple(map(Source, mixer.inputs(mixing))), (Source(mixing.output),)


def _gate_up(mlp: Dense) -> tuple[Source, ...]:
    return (*(() if mlp.gate is None else (Source(mlp.gate),)), Source(mlp.up))


def _order(attention: Attention) -> NDArray[np.int64] | None:
    """Return the source position of each element of a head; None if they keep their order."""
    turning = attention.rotation
    if turning is None or not turning.interleaved:
        return None
    order = np.arange(attention.head_size)
    order[: turning.size] = order[: turning.size].reshape(-1, 2).T.reshape(-1)
    return order


def _by_head(order: NDArray[np.int64] | None, heads: int) -> NDArray[np.int64] | None:
    if order is None:
        return None
    return (np.arange(heads)[:, None] * len(order) + order).reshape(-1)


def packed(
    plan: Plan | ExpertPlan, weights: Weights, form: Format
) -> tuple[Packing, NDArray[np.uint8], NDArray[np.int32] | None]:
    """Return a matrix in the kernels' layout, packed now or mapped from a converted file.

    For experts, the bytes are the matrices of all of a layer's experts, one after another. The
    third is the input's column for each of the matrix's; None if they are in the input's order.

    :raises ModelNotLoadable: the checkpoint lacks a part, has one of another shape, or one whose
        columns make no whole groups.
    """

    def make(checkpoint: Checkpoint) -> Packed:
        if isinstance(plan, ExpertPlan):
            return expert_packing.pack_experts(plan, checkpoint, form, _kind, aligned)
        return _pack(plan, checkpoint, form)

    found = weights.packed(plan.key, make)
    order = found.facts.get("order")
    return _packing(found.facts), found.values, None if order is None else np.array(order, np.int32)


def _pack(plan: Plan, checkpoint: Checkpoint, form: Format) -> Packed:
    shapes = {
        f"{part.rows.name}.weight": (part.rows.tensor_rows, plan.columns) for part in plan.parts
    }
    read = checkpoint.together(shapes, form)
    matrices = [read[f"{part.rows.name}.weight"] for part in plan.parts]
    kinds = [_kind(plan.key, matrix, checkpoint) for matrix in matrices]
    if len(set(kinds)) != 1:
        raise ModelNotLoadable(
            f"{checkpoint.path}: {plan.key} is held in several formats; use backend 'openvino'"
        )
    kind, group = kinds[0]
    packing = Packing(kind, plan.layout, plan.rows, plan.columns, group)
    values = aligned(packed_bytes(packing))
    parts = [
        Part(part.of(_by_row(matrix.values, matrix)), part.of(_by_row(_scales(matrix), matrix)))
        for part, matrix in zip(plan.parts, matrices, strict=True)
    ]
    pack(packing, parts, values)
    facts: dict[str, Any] = {"kind": int(kind), "layout": int(plan.layout), "rows": plan.rows}
    order = matrices[0].order
    facts |= {"order": None if order is None else order.tolist()}
    return Packed({**facts, "columns": plan.columns, "group": group}, values)


def _by_row(values: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    return values.reshape(matrix.rows, -1)


def _kind(key: str, matrix: Matrix, checkpoint: Checkpoint) -> tuple[Kind, int]:
    """Return the kernels' kind for a matrix's format, and its group."""
    if matrix.kind == "i8":
        return Kind.I8, _INT8_GROUP
    if matrix.kind in _BY_GROUP:
        return _BY_GROUP[matrix.kind], matrix.columns // _scales(matrix).shape[1]
    raise ModelNotLoadable(
        f"{checkpoint.path}: {key}: {matrix.columns} columns are no whole groups; "
        f"use format 'int8', or backend 'openvino'"
    )


def _scales(matrix: Matrix) -> NDArray[Any]:
    assert matrix.scales is not None  # noqa: S101 - of these kinds every matrix has them
    return matrix.scales


def _packing(facts: dict[str, Any]) -> Packing:
    return Packing(
        Kind(facts["kind"]),
        Layout(facts["layout"]),
        facts["rows"],
        facts["columns"],
        facts["group"],
    )


def vectors(
    model: Architecture, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    """Every norm and bias of a model.

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
        biased[Vector.QKV_BIAS] = _qkv(layer.attention)
        biased[Vector.OUTPUT_BIAS] = (Source(layer.attention.output),)
    if layer.mixer is not None:
        ins, out = _mixer_parts(layer.mixer)
        biased |= {Vector.MIXER_IN_BIAS: ins, Vector.MIXER_OUT_BIAS: out}
    mlp = dense_part(layer.mlp)
    if mlp is not None and mlp.size:
        biased |= {Vector.GATE_UP_BIAS: _gate_up(mlp), Vector.DOWN_BIAS: (Source(mlp.down),)}
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
    norms, order = attention.head_norms, _order(attention)
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


def aligned(size: int) -> NDArray[np.uint8]:
    """Return bytes with the kernels' alignment; pages that are never written take no memory."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
