"""A decoder's matrices in the kernels' layout: fused if one input feeds several of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import Experts, dense_part
from penstock.models.architecture.mixers import Recurrence, mixer_size
from penstock.models.architecture.rows import Rows
from penstock.models.architecture.sizes import result_size
from penstock.models.backends.native.kinds import kind_of, packing_of_facts, packing_together
from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import ALIGNMENT
from penstock.models.backends.native.matrix import Layout, Packing, Part, pack, packed_bytes
from penstock.models.backends.native.mixtures import expert_packing
from penstock.models.backends.native.mixtures.expert_packing import ExpertPlan
from penstock.models.backends.native.sources import (
    Source,
    gate_up,
    index_queries,
    mixer_parts,
    qkv,
    query_order,
)
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture, Attention
    from penstock.models.architecture.mixers import Mixer
    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Matrix
    from penstock.models.weights.source import Weights

FORMATS: Final[tuple[Format, ...]] = (
    "sym_int4",
    "int4",
    "int8",
    "stored",
    "bf16",
    "fp16",
    "fp32",
)
PANEL: Final = 32
"""Rows that the kernels compute at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One packed matrix: its place in the model, and the checkpoint's matrices that it consists of."""

    which: Which
    layer: int
    layout: Layout
    columns: int
    parts: tuple[Source, ...]
    first_layer: int | None = None
    """The first layer with the same matrix, if that is not this one."""

    @property
    def key(self) -> str:
        """Its name in a file of converted weights."""
        layer = self.layer if self.first_layer is None else self.first_layer
        return f"{layer}.{self.which.name.lower()}"

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows.rows for part in self.parts)


def plans(model: Architecture, weights: Weights) -> Iterator[Plan | ExpertPlan]:
    """Yield every matrix of a model, layer by layer, the head last."""
    firsts: dict[tuple[Which, str], int] = {}
    for plan in _plans(model, weights):
        if isinstance(plan, ExpertPlan):
            yield plan
            continue
        first = firsts.setdefault((plan.which, plan.parts[0].rows.name), plan.layer)
        yield plan if first == plan.layer else replace(plan, first_layer=first)


def _plans(model: Architecture, weights: Weights) -> Iterator[Plan | ExpertPlan]:
    hidden = model.hidden_size
    for index, layer in enumerate(model.layers):
        attention, mlp = layer.attention, dense_part(layer.mlp)
        if layer.attends:
            twice = layer.wide or layer.detour is not None
            yield from _of_attention(index, attention, 2 * hidden if twice else hidden)
        if layer.mixer is not None:
            yield from _of_mixer(index, layer.mixer, hidden)
        if layer.detour is not None:
            out = (Source(layer.detour.output),)
            yield Plan(Which.DETOUR, index, Layout.STACKED, hidden, out)
        if mlp is not None and mlp.size:
            layout = Layout.STACKED if mlp.gate is None else Layout.PAIRED
            yield Plan(Which.GATE_UP, index, layout, hidden, gate_up(mlp))
            yield Plan(Which.DOWN, index, Layout.STACKED, mlp.size, (Source(mlp.down),))
        if isinstance(layer.mlp, Experts):
            yield from expert_packing.plans(index, layer.mlp, hidden, weights)
        own = layer.own_input
        if own is not None and model.inputs is not None:
            yield Plan(Which.INPUT_GATE, index, Layout.STACKED, hidden, (Source(own.gate),))
            size = model.inputs.size
            yield Plan(Which.INPUT_UP, index, Layout.STACKED, size, (Source(own.up),))
    if model.inputs is not None:
        projection = Source(model.inputs.projection)
        yield Plan(Which.LAYER_INPUTS, 0, Layout.STACKED, hidden, (projection,))
    tied = model.tied and not weights.has(f"{model.head.name}.weight")
    head = Rows(model.embeddings, model.vocab_size) if tied else model.head
    yield Plan(Which.HEAD, 0, Layout.STACKED, hidden, (Source(head),))


def _of_attention(index: int, attention: Attention, inputs: int) -> Iterator[Plan]:
    yield Plan(Which.QKV, index, Layout.STACKED, inputs, qkv(attention))
    latent = attention.latent
    if latent is not None and latent.query_rank:
        ups = (Source(attention.query, query_order(attention)), *index_queries(latent))
        yield Plan(Which.QUERY_UP, index, Layout.STACKED, latent.query_rank, ups)
    across = result_size(attention)
    yield Plan(Which.OUTPUT, index, Layout.STACKED, across, (Source(attention.output),))


def _of_mixer(index: int, mixing: Mixer, hidden: int) -> Iterator[Plan]:
    ins, out = mixer_parts(mixing)
    yield Plan(Which.MIXER_IN, index, Layout.STACKED, hidden, ins)
    yield Plan(Which.MIXER_OUT, index, Layout.STACKED, mixer_size(mixing), out)
    if isinstance(mixing, Recurrence):
        for which, down, up in (
            (Which.STEP_UP, mixing.step_down, mixing.step),
            (Which.MIXER_GATE_UP, mixing.gate_down, mixing.gate),
        ):
            if down is not None:
                yield Plan(which, index, Layout.STACKED, down.rows, (Source(up),))


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
            return expert_packing.pack_experts(plan, checkpoint, form, kind_of, aligned)
        return _pack(plan, checkpoint, form)

    found = weights.packed(plan.key, make)
    order = found.facts.get("order")
    return (
        packing_of_facts(found.facts),
        found.values,
        None if order is None else np.array(order, np.int32),
    )


def _pack(plan: Plan, checkpoint: Checkpoint, form: Format) -> Packed:
    shapes = {
        f"{part.rows.name}.weight": (part.rows.tensor_rows, plan.columns) for part in plan.parts
    }
    ends_on_panels = all(part.rows.rows % PANEL == 0 for part in plan.parts)
    read = checkpoint.together(shapes, form, tail=plan.layout is Layout.STACKED and ends_on_panels)
    matrices = [read[f"{part.rows.name}.weight"] for part in plan.parts]
    kinds = [kind_of(plan.key, matrix, checkpoint, form) for matrix in matrices]
    rows = [part.rows.rows for part in plan.parts]
    packing = packing_together(plan.layout, rows, plan.columns, kinds)
    if packing is None:
        raise ModelNotLoadable(
            f"{checkpoint.path}: {plan.key} is held in several formats; use backend 'openvino'"
        )
    values = aligned(packed_bytes(packing))
    parts = [
        Part(part.of(_by_row(matrix.values, matrix)), _part_scales(part, matrix))
        for part, matrix in zip(plan.parts, matrices, strict=True)
    ]
    pack(packing, parts, values)
    facts: dict[str, Any] = {
        "kind": int(packing.kind), "layout": int(plan.layout), "rows": plan.rows,
        "columns": plan.columns, "group": packing.group,
        "tail_kind": int(packing.tail_kind or 0), "tail_rows": packing.tail_rows,
    }  # fmt: skip
    order = matrices[0].order
    return Packed({**facts, "order": None if order is None else order.tolist()}, values)


def _part_scales(part: Source, matrix: Matrix) -> NDArray[Any] | None:
    return None if matrix.scales is None else part.of(_by_row(matrix.scales, matrix))


def _by_row(values: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    return values.reshape(matrix.rows, -1)


def aligned(size: int) -> NDArray[np.uint8]:
    """Return bytes with the kernels' alignment; pages that are never written take no memory."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
