"""Experts of Transformers' modules in bigdl-llm's low bit, in place of 3-D parameters in fp32.

A module with experts gets another class, so that its other parts (activation, biases, norms) and
its tensors' names stay. Each expert's matrix is quantised as bigdl-llm quantises a linear layer's.
In `sym_int4` the products of the experts that a step uses are computed by our kernels, where they
have the module's activation; else expert by expert, by bigdl-llm's.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library as native
from penstock.models.backends.native.layout import Vector, Which
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.backends.native.mixtures.experts import Experts, Gate
from penstock.models.backends.native.mixtures.mixture import Mixture
from penstock.models.backends.native.packing import aligned
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DOWN = "down_proj"
_TOLERANCE = 1e-5


def expert_modules(module: Any) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all that hold experts as Transformers' interface for them has it."""
    for name, part in module.named_modules():
        weight = getattr(part, _DOWN, None)
        if (
            isinstance(weight, nn.Parameter)
            and weight.ndim == 3  # noqa: PLR2004 - experts, rows, columns
            and hasattr(part, "is_transposed")
            and hasattr(part, "_apply_gate")
            and not any(matrix_shape(part, own)[1] % q4_0.BLOCK for own in matrix_names(part))
        ):
            yield name, part


def matrix_names(part: Any) -> tuple[str, str]:
    """The attributes of a module of experts that are to be in low bit."""
    return ("gate_up_proj" if part.has_gate else "up_proj"), _DOWN


def matrix_shape(part: Any, name: str) -> tuple[int, int]:
    """Rows, which are outputs, and columns of one expert's matrix."""
    _, first, second = getattr(part, name).shape
    return (second, first) if part.is_transposed else (first, second)


def convert(
    part: Any, quantise: Callable[[torch.Tensor], torch.Tensor], library: Any, qtype: int
) -> None:
    """Hold a module's experts as blocks: `quantise` makes them of (rows, columns) fp32."""
    shapes = {name: matrix_shape(part, name) for name in matrix_names(part)}
    for name in shapes:
        weights = getattr(part, name).data
        blocks = [
            quantise((own.T if part.is_transposed else own).float().contiguous()) for own in weights
        ]
        setattr(part, name, nn.Parameter(torch.stack(blocks), requires_grad=False))
    _become_low_bit(part, shapes, library, qtype)


def adopt(part: Any, packed: dict[str, torch.Tensor], library: Any, qtype: int) -> int:
    """Give an empty module its experts' blocks, by attribute; returns how many weights they are.

    :raises ValueError: the bytes are not whole matrices.
    """
    shapes = {name: matrix_shape(part, name) for name in matrix_names(part)}
    count = len(getattr(part, _DOWN))
    for name, (rows, columns) in shapes.items():
        expected = (
            library.ggml_convert_qtype(
                torch.empty((1, columns)), qtype, device="cpu", convert_shape_only=True
            ).numel()
            * rows
            * count
        )
        blocks = packed[name]
        if blocks.numel() != expected:
            raise ValueError(f"experts in {blocks.numel()} bytes, not {expected}")
        blocks = blocks.reshape(count, -1)
        setattr(part, name, nn.Parameter(blocks, requires_grad=False))
    _become_low_bit(part, shapes, library, qtype)
    return count * sum(rows * columns for rows, columns in shapes.values())


def _become_low_bit(
    part: Any, shapes: dict[str, tuple[int, int]], library: Any, qtype: int
) -> None:
    part.low_bit_shapes, part.low_bit_type = shapes, qtype
    part.low_bit_product = library.ggml_matmul_src1_x_src0_t
    part.mixture = None
    part.__class__ = _low_bit_class(part.__class__)


@cache
def _low_bit_class(kind: Any) -> Any:
    class LowBitExperts(kind):
        """Experts whose matrices are bytes: (experts, bytes) uint8."""

        def forward(
            self, hidden_states: torch.Tensor, *choice: torch.Tensor, **named: torch.Tensor
        ) -> torch.Tensor:
            """(T, hidden) with (T, chosen) experts and weights -> (T, hidden)."""
            chosen, weights = (*choice, *named.values())
            count = len(getattr(self, _DOWN))
            weights = weights.masked_fill(chosen >= count, 0.0)  # another device's, none here
            chosen = chosen.clamp(max=count - 1)
            if self.mixture is not None:
                return self.mixture(hidden_states, chosen, weights)
            return _one_by_one(self, hidden_states, chosen, weights)

    return LowBitExperts


def _one_by_one(
    part: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The experts that are used, one after another, by bigdl-llm's products."""
    up_name, _ = matrix_names(part)
    out = torch.zeros_like(hidden)
    used: Any = chosen
    for number in used.unique():
        expert = int(number)
        where: Any = chosen == expert
        tokens, ranks = where.nonzero(as_tuple=True)
        up = _product(part, up_name, expert, hidden[tokens])
        inner = part._apply_gate(up) if part.has_gate else part.act_fn(up)  # noqa: SLF001 - their interface
        one = _product(part, _DOWN, expert, inner)
        if part.has_post_expert_norm:
            one = part.post_expert_norm(one)
        out.index_add_(0, tokens, (one * weights[tokens, ranks, None]).to(out.dtype))
    return out


def _product(part: Any, name: str, expert: int, rows: torch.Tensor) -> torch.Tensor:
    blocks = getattr(part, name)[expert]
    out = part.low_bit_product(
        blocks, rows.float().contiguous(), part.low_bit_shapes[name], part.low_bit_type
    )
    return out + getattr(part, f"{name}_bias")[expert] if part.has_bias else out


class _ByKernels:
    """Our kernels' experts, made when it is known how many a token chooses."""

    def __init__(self, part: Any, gate: tuple[Gate, float, float]) -> None:
        self._part, self._gate = part, gate
        self._packings: dict[Which, Packing] = {}
        self._mixture: Mixture | None = None
        for which, name in zip(
            (Which.EXPERTS_GATE_UP, Which.EXPERTS_DOWN), matrix_names(part), strict=True
        ):
            packed = self._pack(which, getattr(part, name), part.low_bit_shapes[name])
            setattr(part, name, nn.Parameter(torch.as_tensor(packed), requires_grad=False))

    def _pack(self, which: Which, blocks: torch.Tensor, shape: tuple[int, int]) -> Any:
        """Blocks of all experts as the kernels have them: (experts, bytes)."""
        paired = which is Which.EXPERTS_GATE_UP
        layout = Layout.PAIRED if paired else Layout.STACKED
        packing = self._packings[which] = Packing(Kind.I4, layout, *shape, q4_0.BLOCK)
        size = packed_bytes(packing)
        packed = aligned(len(blocks) * size).reshape(len(blocks), size)
        for own, expert in zip(packed, blocks.numpy(), strict=True):
            values, scales = q4_0.unpack(expert, *shape)
            halves = _halves(self._part, shape[0]) if paired else (slice(None),)
            pack(packing, [Part(values[half], scales[half]) for half in halves], own)
        return packed

    def __call__(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        count = chosen.shape[1]
        if self._mixture is None or self._mixture.experts.chosen != count:
            self._mixture = self._make(hidden.shape[1], count)
        return self._mixture.compute(hidden, chosen, weights)

    def _make(self, hidden: int, chosen: int) -> Mixture:
        part = self._part
        gate, alpha, limit = self._gate
        inner = self._packings[Which.EXPERTS_DOWN].columns
        experts = len(getattr(part, _DOWN))
        mixture = Mixture(
            hidden,
            Experts(experts, chosen, inner, gate=gate, gate_alpha=alpha, gate_limit=limit),
        )
        for (which, packing), name in zip(self._packings.items(), matrix_names(part), strict=True):
            mixture.set_matrix(which, packing, getattr(part, name).numpy())
        if part.has_bias:
            first, second = (getattr(part, f"{name}_bias").float() for name in matrix_names(part))
            halves = [first[:, half] for half in _halves(part, first.shape[1])]
            mixture.set_vector(Vector.EXPERTS_GATE_UP_BIAS, torch.cat(halves, 1).numpy())
            mixture.set_vector(Vector.EXPERTS_DOWN_BIAS, second.numpy())
        return mixture


def _halves(part: Any, rows: int) -> tuple[slice, slice]:
    """Which rows are gates, which are ups."""
    if part.is_concatenated:
        return slice(0, rows // 2), slice(rows // 2, None)
    return slice(0, None, 2), slice(1, None, 2)


def use_kernels(part: Any) -> None:
    """Give the experts, in blocks of sym_int4, to our kernels where those can compute them."""
    gate = gate_of(part)
    if gate is None or part.has_post_expert_norm or not _kernels_are_there():
        return
    part.mixture = _ByKernels(part, gate)


def _kernels_are_there() -> bool:
    try:
        return native.best_isa() is not None
    except ModelNotLoadable:
        return False


def gate_of(part: Any) -> tuple[Gate, float, float] | None:
    """The kernels' gate that a module's is, with its factor and limit; None: they have none such.

    What it computes decides, not its name.
    """
    if not part.has_gate:
        return None
    both = torch.as_tensor(np.linspace(-9.0, 9.0, 128, dtype=np.float32).reshape(2, 64))
    both = torch.cat((both, both.flip(1).roll(7, 1)), 1)
    gate, up = (both[:, half] for half in _halves(part, both.shape[1]))
    alpha, limit = float(getattr(part, "alpha", 1.0)), float(getattr(part, "limit", 0.0))
    clamped, within = gate.clamp(max=limit), up.clamp(-limit, limit)
    computed: torch.Tensor = part._apply_gate(both)  # noqa: SLF001 - their interface
    for kind, expected in (
        (Gate.SILU, nn.functional.silu(gate) * up),
        (Gate.CLAMPED_SILU, (within + 1) * clamped * torch.sigmoid(clamped * alpha)),
    ):
        if torch.allclose(computed, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            return kind, alpha, limit
    return None
