"""Weights of layers with experts in the kernels' layout: all experts', one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.description import ClampedGate, Experts
from penstock.models.backends.native.layout import Vector, Which
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.backends.native.mixtures.experts import Experts as NativeExperts
from penstock.models.backends.native.mixtures.experts import Gate, Scoring
from penstock.models.backends.native.traits import ACTIVATIONS
from penstock.models.weights import q4_0
from penstock.models.weights.experts import ExpertTensor
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture
    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format, Matrix
    from penstock.models.weights.source import Weights

_SCORING: Final = {
    "softmax": Scoring.SOFTMAX,
    "softmax_of_chosen": Scoring.SOFTMAX_OF_CHOSEN,
    "sigmoid": Scoring.SIGMOID,
}


_NAMES: Final = (
    (".block_sparse_moe.", ".mlp."),
    (".router.layer", ".router"),
    (".block_sparse_moe.input_linear", ".block_sparse_moe.experts.gate_up_proj"),
    (".block_sparse_moe.output_linear", ".block_sparse_moe.experts.down_proj"),
    (".mlp.moe_statics.", ".mlp.gate.moe_statics."),
)
"""Parts of published names, and of those that Transformers' modules have, as low-bit folders do."""


@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """One kind of matrix of all experts of a layer."""

    which: Which
    layer: int
    experts: Experts
    hidden: int

    @property
    def key(self) -> str:
        """Its key in a file of converted weights."""
        return f"{self.layer}.{self.which.name.lower()}"

    @property
    def layout(self) -> Layout:
        """The kernels' layout of each matrix."""
        paired = self.which is Which.EXPERTS_GATE_UP and self.experts.matrices.gated
        return Layout.PAIRED if paired else Layout.STACKED

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of one expert's matrix."""
        if self.which is Which.EXPERTS_GATE_UP:
            return (2 if self.experts.matrices.gated else 1) * self.experts.size, self.hidden
        return self.hidden, self.experts.size


def plans(index: int, experts: Experts, hidden: int, weights: Weights) -> Iterator[ExpertPlan]:
    """The matrices of a layer's experts."""
    named = located(experts, weights)
    for which in (Which.EXPERTS_GATE_UP, Which.EXPERTS_DOWN):
        yield ExpertPlan(which, index, named, hidden)


def located(experts: Experts, weights: Weights | Checkpoint) -> Experts:
    """Return the same experts with the names that the checkpoint uses."""

    def known(name: str) -> str:
        ways = (name, *(name.replace(*names) for names in _NAMES))
        return next((way for way in ways if weights.has(way) or weights.has(f"{way}.weight")), name)

    matrices, routing = experts.matrices, experts.routing
    return replace(
        experts,
        matrices=replace(
            matrices,
            together=known(matrices.together),
            down_together=known(matrices.down_together),
        ),
        routing=replace(
            routing,
            router=known(routing.router),
            correction=None if routing.correction is None else known(routing.correction),
        ),
    )


def native_experts(experts: Experts) -> NativeExperts:
    """Return a layer's experts in the library's form."""
    routing, gate = experts.routing, experts.activation
    clamped = gate if isinstance(gate, ClampedGate) else None
    return NativeExperts(
        experts=routing.experts,
        chosen=routing.chosen,
        intermediate=experts.size,
        shared=0 if experts.shared is None else experts.shared.size,
        scoring=_SCORING[routing.scoring],
        normalise=routing.normalise,
        groups=routing.groups,
        chosen_groups=routing.chosen_groups,
        group_best=routing.group_best,
        gate=ACTIVATIONS[gate] if not isinstance(gate, ClampedGate) else Gate.CLAMPED_SILU,
        gated=experts.matrices.gated,
        apart=experts.apart is not None,
        least_sum=routing.least_sum,
        added_sum=routing.added_sum,
        scale=routing.scale,
        gate_alpha=1.0 if clamped is None else clamped.alpha,
        gate_limit=0.0 if clamped is None else clamped.limit,
    )


def pack_experts(
    plan: ExpertPlan,
    checkpoint: Checkpoint,
    form: Format,
    kind_of: Callable[[str, Matrix, Checkpoint, Format], tuple[Kind, int]],
    taken: Callable[[int], NDArray[np.uint8]],
) -> Packed:
    """Quantise and pack the matrices of all experts; `taken` allocates memory for them.

    :raises ModelNotLoadable: the checkpoint lacks one, or has one with a wrong shape.
    """
    count = plan.experts.routing.experts
    rows, columns = plan.shape
    values: NDArray[np.uint8] | None = None
    facts: dict[str, Any] = {}
    for number, matrices in enumerate(_matrices(plan, checkpoint, form)):
        kinds = {kind_of(plan.key, matrix, checkpoint, form) for matrix in matrices}
        ordered = any(matrix.order is not None for matrix in matrices)
        if form == "stored" and (ordered or len(kinds | _kinds(facts)) != 1):
            return pack_experts(plan, checkpoint, "int8", kind_of, taken)
        if len(kinds) != 1 or (facts and kinds != {(facts["kind"], facts["group"])}):
            raise ModelNotLoadable(f"{checkpoint.path}: {plan.key} is held in several formats")
        ((kind, group),) = kinds
        packing = Packing(kind, plan.layout, rows, columns, group)
        if values is None:
            values = taken(count * packed_bytes(packing)).reshape(count, -1)
            facts = {"kind": int(kind), "layout": int(plan.layout), "rows": rows}
            facts |= {"columns": columns, "group": group}
        pack(packing, _parts(plan, matrices), values[number])
    assert values is not None  # noqa: S101 - a described mixture has an expert at least
    return Packed(facts, values.reshape(-1))


def _kinds(facts: dict[str, Any]) -> set[tuple[Kind, int]]:
    """The kind and group of the matrices before, if there were any."""
    return {(Kind(facts["kind"]), int(facts["group"]))} if facts else set()


def _matrices(
    plan: ExpertPlan, checkpoint: Checkpoint, form: Format
) -> Iterator[tuple[Matrix, ...]]:
    """By expert: gate and up, or both in one, or down."""
    names, count = plan.experts.matrices, plan.experts.routing.experts
    rows, columns = plan.shape
    first = plan.which is Which.EXPERTS_GATE_UP
    ups = (names.gate, names.up) if names.gated else (names.up,)
    each = ups if first else (names.down,)
    if checkpoint.has(f"{each[0].format(0)}.weight"):
        shape = (rows // len(each), columns)
        for number in range(count):
            yield tuple(
                checkpoint.matrix(f"{name.format(number)}.weight", shape, form) for name in each
            )
        return
    together = names.together if first else names.down_together
    tensor = ExpertTensor.of(checkpoint, together, count, plan.shape, transposed=names.transposed)
    for number in range(count):
        yield (tensor.matrix(number, form),)


def _parts(plan: ExpertPlan, matrices: tuple[Matrix, ...]) -> list[Part]:
    parts = [Part(matrix.values.reshape(matrix.rows, -1), _by_row(matrix)) for matrix in matrices]
    if len(parts) == 1 and plan.layout is Layout.PAIRED:
        (both,) = parts
        halves = (
            (slice(0, None, 2), slice(1, None, 2))
            if plan.experts.matrices.interleaved
            else (slice(0, plan.experts.size), slice(plan.experts.size, None))
        )
        scales = both.scales
        return [
            Part(both.values[half], None if scales is None else scales[half]) for half in halves
        ]
    return parts


def _by_row(matrix: Matrix) -> NDArray[Any] | None:
    return None if matrix.scales is None else _scales(matrix)


def _scales(matrix: Matrix) -> NDArray[Any]:
    assert matrix.scales is not None  # noqa: S101 - of what is packed every matrix has them
    return matrix.scales.reshape(matrix.rows, -1)


def routers(model: Architecture, weights: Weights) -> Iterator[tuple[int, NDArray[Any]]]:
    """Every layer's router, (experts, hidden), in the checkpoint's own type.

    :raises ModelNotLoadable: it is missing or has a wrong shape.
    """
    for index, experts in mixtures(model):
        name = f"{located(experts, weights).routing.router}.weight"
        matrix = weights.embeddings(name)
        if (matrix.rows, matrix.columns) != (experts.routing.experts, model.hidden_size):
            raise ModelNotLoadable(f"{name} is ({matrix.rows}, {matrix.columns})")
        yield index, matrix.values


def vectors(
    index: int, experts: Experts, hidden: int, weights: Weights
) -> Iterator[tuple[Vector, int, NDArray[np.float32]]]:
    """Yield the vectors of a layer's experts: biases, corrections, the gate of the shared expert.

    :raises ModelNotLoadable: one that is described is missing.
    """
    named = located(experts, weights)
    routing, names = named.routing, named.matrices
    optional = {
        Vector.ROUTER_BIAS: f"{routing.router}.bias",
        Vector.EXPERTS_DOWN_BIAS: f"{names.down_together}_bias",
    }
    for which, name in optional.items():
        if weights.has(name):
            yield which, index, weights.vector(name)
    if weights.has(f"{names.together}_bias"):
        biases = weights.vector(f"{names.together}_bias")
        if names.interleaved:
            biases = np.concatenate((biases[:, 0::2], biases[:, 1::2]), axis=1)
        yield Vector.EXPERTS_GATE_UP_BIAS, index, biases
    if routing.correction is not None:
        yield Vector.ROUTER_CORRECTION, index, weights.vector(routing.correction)
    if routing.weights is not None:
        yield Vector.EXPERT_SCALES, index, weights.vector(routing.weights)
    if named.apart is not None:
        scale = np.float32(named.apart.router_scale)
        yield Vector.ROUTER_NORM, index, weights.vector(named.apart.router_weight) * scale
    if experts.shared_gate is not None:
        yield Vector.SHARED_GATE, index, _row(f"{experts.shared_gate}.weight", hidden, weights)


def _row(name: str, columns: int, weights: Weights) -> NDArray[np.float32]:
    """A matrix of one row, which low-bit folders may hold as blocks."""
    matrix = weights.matrix(name, (1, columns), "fp32")
    if matrix.kind == "i4":
        return q4_0.dequantize(matrix.values, _scales(matrix))
    return matrix.values


def mixtures(model: Architecture) -> Iterator[tuple[int, Experts]]:
    """The layers that have experts."""
    for index, layer in enumerate(model.layers):
        if isinstance(layer.mlp, Experts):
            yield index, layer.mlp
