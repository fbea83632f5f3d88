"""A checkpoint's matrices in the formats used for computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Format = Literal["fp32", "bf16", "fp16", "int8", "int4", "sym_int4", "stored"]
"""`stored`: as the checkpoint was published, to the value, if that is possible."""
FORMATS: tuple[Format, ...] = ("fp32", "bf16", "int8", "int4", "sym_int4")
INT4_GROUPS = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix, (rows, columns); rows are the layer's outputs.

    `kind` is the element type of `values`; `i4` packs two columns a byte, the even one low, each
    in two's complement. `scales` is (rows, groups), None for types without scales.

    The `z` and `a` kinds are published codes without sign, of 4 bits packed likewise or of a byte
    each: their `scales` are (rows, groups, 2), each with a zero (fp16) or an offset (fp32). With an
    `order` column i is the input's column order[i]. Of the `k` kinds, GGUF's, codes are of 4 bits or
    of a byte likewise, and `scales` are (rows, superblocks, bytes): see `Integers.levels`.
    """

    kind: Literal["f32", "bf16", "f16", "i8", "i4", "z4", "z8", "a4", "a8", "k4", "k5", "k6"]
    rows: int
    columns: int
    values: NDArray[Any]
    scales: NDArray[Any] | None = None
    order: NDArray[np.int32] | None = None

    @property
    def form(self) -> str:
        """The format's name, as cards have it."""
        return {"f32": "fp32", "f16": "fp16", "i8": "int8", "i4": "int4"}.get(self.kind, self.kind)

    @property
    def nbytes(self) -> int:
        """The memory of values and scales in bytes."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, slots=True)
class Packed:
    """Bytes in a backend's own layout, with `facts` about them: a dictionary for JSON."""

    facts: dict[str, Any]
    values: NDArray[np.uint8]


def wrong_shape(
    path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, int]
) -> ModelNotLoadable:
    """Return the error for a matrix whose shape is not the configuration's."""
    return ModelNotLoadable(f"{path}: {name} is {found}, the configuration says {wanted}")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a quantised checkpoint is held as: the published `label`, empty if it was not quantised.

    `others` are the formats of matrices that are held as something else, `error` what that cost
    all weights together, relative to their size; None: not measured.
    """

    label: str = ""
    others: tuple[str, ...] = ()
    error: float | None = None

    @property
    def form(self) -> str:
        """The name for a card: what was published, and what some matrices became."""
        return "+".join((self.label, *self.others))


def plain(weight: torch.Tensor) -> Matrix:
    """Return a matrix unchanged, sharing the tensor's memory (the mapped file's, for a checkpoint)."""
    rows, columns = weight.shape
    weight = weight.contiguous()
    if weight.dtype == torch.bfloat16:
        return Matrix("bf16", rows, columns, weight.view(torch.int16).numpy())
    if weight.dtype == torch.float16:
        return Matrix("f16", rows, columns, weight.numpy())
    return Matrix("f32", rows, columns, weight.float().numpy())


def sym_int4(weight: torch.Tensor) -> Matrix:
    """Quantise to bigdl-llm's blocks. Without full blocks a matrix is unchanged, as in bigdl."""
    rows, columns = weight.shape
    if columns % q4_0.BLOCK:
        return plain(weight)
    values, scales = q4_0.quantize(weight)
    return Matrix("i4", rows, columns, values, scales)


def int8(weight: torch.Tensor) -> Matrix:
    """Quantise symmetrically, with one fp32 scale a row."""
    rows, columns = weight.shape
    weight = weight.float()
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(scales != 0, 1 / scales, 0)
    values = (weight * inverse).round_().to(torch.int8)
    return Matrix("i8", rows, columns, values.numpy(), scales.numpy())


def int4(weight: torch.Tensor) -> Matrix:
    """Quantise symmetrically, with one fp16 scale for 128 columns (fewer if 128 does not divide them).

    The rounding is bigdl-llm's: the outermost of 16 levels represents the largest weight.
    A matrix without such groups is quantised to INT8.
    """
    rows, columns = weight.shape
    group = next((size for size in INT4_GROUPS if columns % size == 0), None)
    if group is None:
        return int8(weight)
    values, scales = q4_0.quantize(weight, group)
    return Matrix("i4", rows, columns, values, scales)


_AS: dict[str, Callable[[torch.Tensor], Matrix]] = {
    "fp32": lambda weight: plain(weight.float()),
    "bf16": lambda weight: plain(weight.bfloat16()),
    "fp16": lambda weight: plain(weight.half()),
    "int8": int8,
    "int4": int4,
    "sym_int4": sym_int4,
}


def in_form(weight: torch.Tensor, form: Format) -> Matrix:
    """A matrix of values in a format."""
    return _AS[form](weight)
