"""Folders that `optimum-cli export openvino` wrote, turned into graphs with paged attention.

The export is a stateful graph of scaled dot products; OpenVINO's own transformation replaces those
by paged attention and the state by inputs. Added here is the choice of rows before the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.backends.openvino.runtime_library import (
    last_line,
    openvino,
    opset,
    paged_attention_transformation,
)

if TYPE_CHECKING:
    from pathlib import Path

FILE = "openvino_model.xml"
_PASSED = ("Result", "Convert", "Add", "Reshape")
"""Operations that may be between the head's product and the model's result."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A graph with the inputs `position_ids` and `rows`, and its properties."""

    graph: Any
    parameters: int
    weights_bytes: int


def is_exported(path: Path) -> bool:
    """Return whether the folder contains an OpenVINO model."""
    return (path / FILE).is_file()


def read(path: Path) -> Exported:
    """Read a folder's graph and give it paged attention.

    :raises ModelNotLoadable: the file is damaged, or the graph cannot have paged attention.
    """
    try:
        graph = openvino().Core().read_model(path / FILE)
        parameters = _count(graph)
        paged_attention_transformation()(graph)
        _choose_rows(path, graph)
    except RuntimeError as error:
        raise ModelNotLoadable(f"{path / FILE}: OpenVINO: {last_line(error)}") from error
    return Exported(graph, parameters, (path / FILE).with_suffix(".bin").stat().st_size)


def _count(graph: Any) -> int:
    """Return the number of weights, without scales and zero points (whose last dimension is 1)."""
    shapes = (
        tuple(node.output(0).get_shape())
        for node in graph.get_ops()
        if node.get_type_name() == "Constant"
    )
    return sum(int(np.prod(shape)) for shape in shapes if len(shape) > 1 and shape[-1] > 1)


def _choose_rows(path: Path, graph: Any) -> None:
    """Insert a gather of `rows` before the product that makes the logits; also output its result."""
    node = graph.output("logits").get_node()
    while node.get_type_name() in _PASSED:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        raise ModelNotLoadable(f"{path / FILE}: the logits come from {node.get_type_name()}")
    library, ops = openvino(), opset()
    rows = ops.parameter(library.PartialShape([-1]), library.Type.i32)
    rows.output(0).get_tensor().set_names({"rows"})
    hidden = node.input_value(0)  # (tokens, 1, hidden size)
    chosen = ops.gather(hidden, rows, ops.constant(np.int64(0)))
    node.input(0).replace_source_output(chosen.output(0))
    chosen.output(0).get_tensor().set_names({"hidden"})
    graph.add_results([ops.result(chosen)])
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()
