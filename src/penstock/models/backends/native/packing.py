"""A decoder's weights as the kernels want them: fused where one input feeds several matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native.decoder import Vector, Which
from penstock.models.backends.native.library import ALIGNMENT
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.backends.llama_family import Decoder
    from penstock.models.weights.matrices import Checkpoint, Format, Matrix, Weights

FORMATS: Final[tuple[Format, ...]] = ("sym_int4", "int4", "int8")
_BIASES: Final = {
    Vector.QKV_BIAS: ("self_attn.q", "self_attn.k", "self_attn.v"),
    Vector.OUTPUT_BIAS: ("self_attn.o",),
    Vector.GATE_UP_BIAS: ("mlp.gate", "mlp.up"),
    Vector.DOWN_BIAS: ("mlp.down",),
}
_INT8_GROUP: Final = 128
"""Activations that share a scale where the weights' rows have one each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One packed matrix: its place, and the checkpoint's matrices in it, each with its rows."""

    which: Which
    layer: int
    layout: Layout
    columns: int
    parts: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        """Its name in a file of converted weights."""
        return f"{self.layer}.{self.which.name.lower()}"


def plans(decoder: Decoder, weights: Weights) -> Iterator[Plan]:
    """Every matrix of a decoder, layer by layer, the head last."""
    size, hidden, inner = decoder.head_size, decoder.hidden_size, decoder.intermediate_size
    across, narrow = decoder.heads * size, decoder.kv_heads * size
    for layer in range(decoder.layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        qkv = (
            (f"{attention}.q_proj", across),
            (f"{attention}.k_proj", narrow),
            (f"{attention}.v_proj", narrow),
        )
        yield Plan(Which.QKV, layer, Layout.STACKED, hidden, qkv)
        out = ((f"{attention}.o_proj", hidden),)
        yield Plan(Which.OUTPUT, layer, Layout.STACKED, across, out)
        gate_up = ((f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner))
        yield Plan(Which.GATE_UP, layer, Layout.PAIRED, hidden, gate_up)
        yield Plan(Which.DOWN, layer, Layout.STACKED, inner, ((f"{mlp}.down_proj", hidden),))
    tied = decoder.tied_embeddings and not weights.has("lm_head.weight")
    head = "model.embed_tokens" if tied else "lm_head"
    yield Plan(Which.HEAD, 0, Layout.STACKED, hidden, ((head, decoder.vocab_size),))


def packed(plan: Plan, weights: Weights, form: Format) -> tuple[Packing, NDArray[np.uint8]]:
    """A matrix as the kernels want it, packed now or mapped from where it was kept.

    :raises ModelNotLoadable: the checkpoint lacks a part, has one of another shape, or one whose
        columns make no whole groups.
    """
    found = weights.packed(plan.key, lambda checkpoint: _pack(plan, checkpoint, form))
    return _packing(found.facts), found.values


def _pack(plan: Plan, checkpoint: Checkpoint, form: Format) -> Packed:
    matrices = [
        checkpoint.matrix(f"{name}.weight", (rows, plan.columns), form) for name, rows in plan.parts
    ]
    kinds = [_kind(plan, matrix, checkpoint) for matrix in matrices]
    if len(set(kinds)) != 1:
        raise ModelNotLoadable(
            f"{checkpoint.path}: {plan.key} is held in several formats; use backend 'openvino'"
        )
    kind, group = kinds[0]
    rows = sum(rows for _, rows in plan.parts)
    packing = Packing(kind, plan.layout, rows, plan.columns, group)
    values = aligned(packed_bytes(packing))
    parts = [Part(matrix.values, _scales(matrix)) for matrix in matrices]
    pack(packing, parts, values)
    facts = {"kind": int(kind), "layout": int(plan.layout), "rows": rows}
    return Packed({**facts, "columns": plan.columns, "group": group}, values)


def _kind(plan: Plan, matrix: Matrix, checkpoint: Checkpoint) -> tuple[Kind, int]:
    """The kernels' name of a matrix's format, and its group."""
    if matrix.kind == "i8":
        return Kind.I8, _INT8_GROUP
    if matrix.kind == "i4":
        return Kind.I4, matrix.columns // _scales(matrix).shape[1]
    raise ModelNotLoadable(
        f"{checkpoint.path}: {plan.key}: {plan.columns} columns are no whole groups; "
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
    decoder: Decoder, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    """Every norm and bias of a decoder.

    :raises ModelNotLoadable: the checkpoint lacks a norm.
    """
    for layer in range(decoder.layers):
        name = f"model.layers.{layer}"
        norms = {
            Vector.INPUT_NORM: f"{name}.input_layernorm",
            Vector.ATTENTION_NORM: f"{name}.post_attention_layernorm",
        }
        if decoder.qk_norm:
            norms[Vector.QUERY_NORM] = f"{name}.self_attn.q_norm"
            norms[Vector.KEY_NORM] = f"{name}.self_attn.k_norm"
        for which, norm in norms.items():
            yield which, layer, weights.vector(f"{norm}.weight")
        for which, parts in _BIASES.items():
            names = [f"{name}.{part}_proj.bias" for part in parts]
            if weights.has(names[0]):
                yield which, layer, np.concatenate([weights.vector(one) for one in names])
    yield Vector.FINAL_NORM, 0, weights.vector("model.norm.weight")


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes, where the kernels want memory to begin; pages never written take none."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
