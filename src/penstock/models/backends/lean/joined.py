"""The joined matrices of a layer: those of the checkpoint that have the same input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from penstock.models.architecture.description import dense_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.models.architecture.description import Layer
    from penstock.models.architecture.rows import Rows

Which: TypeAlias = Literal["qkv", "out", "gate_up", "down"]
"""A joined matrix's place in a layer, and its name in `LayerWeights`."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One joined matrix of `columns`; `matrices` are the checkpoint's names and rows, in order."""

    which: Which
    columns: int
    matrices: tuple[tuple[str, int], ...]


def of_layer(layer: Layer, hidden_size: int) -> Iterator[Joined]:
    """Yield a layer's joined matrices; experts have matrices of their own."""
    attention, mlp = layer.attention, dense_part(layer.mlp)
    across = attention.heads * attention.head_size
    yield _joined("qkv", hidden_size, attention.query, attention.key, attention.value)
    yield _joined("out", across, attention.output)
    if mlp is not None:
        first = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
        yield _joined("gate_up", hidden_size, *first)
        yield _joined("down", mlp.size, mlp.down)


def _joined(which: Which, columns: int, *parts: Rows) -> Joined:
    rows = {part.name: part.tensor_rows for part in parts}
    return Joined(which, columns, tuple(rows.items()))
