"""Which of the kernels' kinds a matrix of a format has, and the packing of those that one input feeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native.matrix import Kind, Layout, Packing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Matrix

_PLAIN: Final = {"f16": Kind.F16, "bf16": Kind.BF16, "f32": Kind.F32}
"""Kinds of matrices that are not quantised."""
PLAIN_FORMATS: Final = frozenset({"bf16", "fp16", "fp32"})
_PLAIN_GROUP: Final = 64
"""Columns that a matrix which is not quantised is filled up to."""
_BY_GROUP: Final = {
    "i4": Kind.I4,
    "z4": Kind.Z4,
    "z8": Kind.Z8,
    "a4": Kind.A4,
    "a8": Kind.A8,
}
_NESTED: Final = {"k4": Kind.K4, "k5": Kind.K5, "k6": Kind.K6}
_NESTED_GROUP: Final = 32
"""Activations that share a scale."""
_INT8_GROUP: Final = 128
"""Activations that share a scale if the weights have one for each row."""


def kind_of(key: str, matrix: Matrix, checkpoint: Checkpoint, form: Format) -> tuple[Kind, int]:
    """Return the kernels' kind for a matrix's format, and its group.

    :raises ModelNotLoadable: its columns make no whole groups.
    """
    if matrix.kind in _PLAIN and form in PLAIN_FORMATS:
        return _PLAIN[matrix.kind], _PLAIN_GROUP
    if matrix.kind == "i8":
        return Kind.I8, _INT8_GROUP
    if matrix.kind in _BY_GROUP:
        return _BY_GROUP[matrix.kind], matrix.columns // _scales(matrix).shape[1]
    if matrix.kind in _NESTED:
        return _NESTED[matrix.kind], _NESTED_GROUP
    raise ModelNotLoadable(
        f"{checkpoint.path}: {key}: {matrix.columns} columns are no whole groups; "
        f"use format 'int8', or backend 'openvino'"
    )


def _scales(matrix: Matrix) -> NDArray[Any]:
    assert matrix.scales is not None  # noqa: S101 - of these kinds every matrix has them
    return matrix.scales


def packing_of_facts(facts: dict[str, Any]) -> Packing:
    """Return the packing that a file of converted weights states."""
    tail = facts.get("tail_kind")
    return Packing(
        Kind(facts["kind"]), Layout(facts["layout"]), facts["rows"], facts["columns"], facts["group"],
        Kind(tail) if tail else None, facts.get("tail_rows", 0),
    )  # fmt: skip


def packing_together(
    layout: Layout, rows: Sequence[int], columns: int, kinds: list[tuple[Kind, int]]
) -> Packing | None:
    """Return the packing of parts with so many rows, of these kinds and groups.

    None if no kernel computes them together.
    """
    kind, group = kinds[0]
    packing = Packing(kind, layout, sum(rows), columns, group)
    others = [own for own in kinds if own != kinds[0]]
    if not others:
        return packing
    tail = others[0][0]
    nested = kind.is_nested and tail.is_nested and layout is Layout.STACKED
    if not nested or kinds[-len(others) :] != [others[0]] * len(others):
        return None
    return replace(packing, tail_kind=tail, tail_rows=sum(rows[-len(others) :]))
