"""A checkpoint's matrices in the formats that they are computed with."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from penstock.errors import ModelNotLoadable, first_line
from penstock.models.catalogue.text_part import plain_names
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

Format = Literal["fp32", "bf16", "int8", "int4", "sym_int4"]
FORMATS: tuple[Format, ...] = ("fp32", "bf16", "int8", "int4", "sym_int4")
INT4_GROUPS = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix, (rows, columns), rows being the layer's outputs.

    `kind` is the element type of `values`; `i4` packs two columns a byte, the even one low, each
    in two's complement. `scales` is (rows, groups), None for the types that need none.
    """

    kind: Literal["f32", "bf16", "f16", "i8", "i4"]
    rows: int
    columns: int
    values: NDArray[Any]
    scales: NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of values and scales."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, slots=True)
class Packed:
    """Bytes in a backend's own order, and what it must know of them: a dictionary for JSON."""

    facts: dict[str, Any]
    values: NDArray[np.uint8]


def wrong_shape(
    path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, int]
) -> ModelNotLoadable:
    """What to raise for a matrix that is not the configuration's."""
    return ModelNotLoadable(f"{path}: {name} is {found}, the configuration says {wanted}")


class Weights(Protocol):
    """Where a backend gets its weights: a checkpoint, or what was made of one."""

    @property
    def parameters(self) -> int:
        """How many weights were asked for so far, shared ones once."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        ...

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's weight or a bias."""
        ...

    def embeddings(self, name: str) -> Matrix:
        """An embedding table."""
        ...

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """A linear layer's weight.

        :raises ModelNotLoadable: its shape is not `shape`.
        """
        ...

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """What `make` makes of the checkpoint, now or when it was converted."""
        ...


class Checkpoint:
    """The tensors of a folder by name, mapped from its files and read when asked for."""

    def __init__(self, path: Path) -> None:
        """:raises ModelNotLoadable: a file is damaged, or there is none."""
        self.path = path
        self._open = ExitStack()
        self._tensors: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        safetensors: Any = __import__("safetensors")
        for file in sorted(path.glob("*.safetensors")):
            try:
                handle = self._open.enter_context(safetensors.safe_open(file, "pt"))
                self._tensors.update(dict.fromkeys(handle.keys(), handle))
            except Exception as error:
                raise ModelNotLoadable(f"{file}: {first_line(error)}") from error
        if not self._tensors:
            self._read_pickles(sorted(path.glob("pytorch_model*.bin")))
        if not self._tensors:
            raise ModelNotLoadable(f"{path}: there are no weights (*.safetensors)")
        self._stored = plain_names(self._tensors)
        self._tensors |= {name: self._tensors[own] for name, own in self._stored.items()}

    def _read_pickles(self, files: Iterable[Path]) -> None:
        """What older bigdl-llm's `save_low_bit` wrote. Only tensors are unpickled."""
        for file in files:
            try:
                self._tensors.update(torch.load(file, mmap=True, weights_only=True))
            except Exception as error:
                raise ModelNotLoadable(f"{file}: {first_line(error)}") from error

    @property
    def parameters(self) -> int:
        """How many weights were asked for so far, shared ones once."""
        return sum(self._sizes.values())

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._tensors

    def tensor(self, name: str) -> torch.Tensor:
        """:raises ModelNotLoadable: there is no such tensor."""
        found = self._tensors.get(name)
        if found is None:
            raise ModelNotLoadable(f"{self.path}: the checkpoint lacks {name}")
        if isinstance(found, torch.Tensor):
            return found
        return found.get_tensor(self._stored.get(name, name))

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's weight or a bias."""
        weight = self.tensor(name)
        self._sizes[name] = weight.numel()
        values: NDArray[np.float32] = weight.float().numpy()
        self._require_numbers(name, values)
        return values

    def embeddings(self, name: str) -> Matrix:
        """An embedding table, in the checkpoint's own type: only a few rows are read a step."""
        table = self.tensor(name)
        self._sizes[name] = table.numel()
        return plain(table)

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """A linear layer's weight in `form`, or as bigdl-llm's blocks where it holds those.

        :raises ModelNotLoadable: its shape is not `shape`, or its blocks are not sym_int4's.
        """
        return self.held(name, self.tensor(name), shape, form)

    def held(self, name: str, weight: torch.Tensor, shape: tuple[int, int], form: Format) -> Matrix:
        """As `matrix`, of a weight that was read already, or is a part of a tensor."""
        rows, columns = shape
        if weight.dtype == torch.uint8:
            return self._from_blocks(name, weight, rows, columns)
        if tuple(weight.shape) != shape:
            raise wrong_shape(self.path, name, tuple(weight.shape), shape)
        self._sizes[name] = rows * columns
        held = _AS[form](weight)
        if held.scales is not None:
            self._require_numbers(name, held.scales)
        return held

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """What `make` makes of it. `key` names that for a file of converted weights."""
        del key
        return make(self)

    def _require_numbers(self, name: str, values: NDArray[Any]) -> None:
        """:raises ModelNotLoadable: the checkpoint is damaged, or too large for its format."""
        if not np.isfinite(values).all():
            raise ModelNotLoadable(
                f"{self.path}: the weight {name} holds NaN or infinity: the checkpoint is damaged"
            )

    def _from_blocks(self, name: str, blocks: torch.Tensor, rows: int, columns: int) -> Matrix:
        expected = rows * columns // q4_0.BLOCK * q4_0.BLOCK_BYTES
        if blocks.numel() != expected or columns % q4_0.BLOCK:
            raise ModelNotLoadable(
                f"{self.path}: {name} holds {blocks.numel()} bytes, sym_int4 blocks of "
                f"({rows}, {columns}) are {expected}; of low-bit folders only sym_int4 is read here"
            )
        self._sizes[name] = rows * columns
        values, scales = q4_0.unpack(blocks.reshape(-1).numpy(), rows, columns)
        return Matrix("i4", rows, columns, values, scales)


def plain(weight: torch.Tensor) -> Matrix:
    """A matrix as it is, sharing the tensor's memory (the mapped file's, for a checkpoint's)."""
    rows, columns = weight.shape
    weight = weight.contiguous()
    if weight.dtype == torch.bfloat16:
        return Matrix("bf16", rows, columns, weight.view(torch.int16).numpy())
    if weight.dtype == torch.float16:
        return Matrix("f16", rows, columns, weight.numpy())
    return Matrix("f32", rows, columns, weight.float().numpy())


def sym_int4(weight: torch.Tensor) -> Matrix:
    """bigdl-llm's blocks. Without whole ones a matrix stays as it is, as in the bigdl backend."""
    rows, columns = weight.shape
    if columns % q4_0.BLOCK:
        return plain(weight)
    values, scales = q4_0.quantize(weight)
    return Matrix("i4", rows, columns, values, scales)


def int8(weight: torch.Tensor) -> Matrix:
    """Symmetric, one fp32 scale a row."""
    rows, columns = weight.shape
    weight = weight.float()
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(scales != 0, 1 / scales, 0)
    values = (weight * inverse).round_().to(torch.int8)
    return Matrix("i8", rows, columns, values.numpy(), scales.numpy())


def int4(weight: torch.Tensor) -> Matrix:
    """Symmetric, one fp16 scale a group of 128 columns (fewer where 128 does not divide them).

    The rounding is bigdl-llm's: of the 16 levels the outermost stands for the largest weight.
    A matrix that has no such groups is held in INT8.
    """
    rows, columns = weight.shape
    group = next((size for size in INT4_GROUPS if columns % size == 0), None)
    if group is None:
        return int8(weight)
    values, scales = q4_0.quantize(weight, group)
    return Matrix("i4", rows, columns, values, scales)


_AS: dict[Format, Callable[[torch.Tensor], Matrix]] = {
    "fp32": lambda weight: plain(weight.float()),
    "bf16": lambda weight: plain(weight.bfloat16()),
    "int8": int8,
    "int4": int4,
    "sym_int4": sym_int4,
}
