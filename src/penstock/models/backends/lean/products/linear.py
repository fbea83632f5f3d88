"""A layer's matrices as the lean decoder holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Dense:
    """weight (rows, columns) in the model's own type; bias (rows,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self.weight.nbytes


@dataclass(frozen=True, slots=True)
class Int4:
    """bigdl-llm's sym_int4: values 0 to 15 with an offset of 8, 64 neighbours in a row a scale.

    `packed` is (rows, columns / 8) int32. A block of 64 columns is 32 bytes, as in bigdl-llm's own:
    their low nibbles are the first 32 columns, the high ones the others.
    `scales` is (rows, columns / 64) fp16. `wide` (rows, columns), if there is room for it, is
    what these stand for in the model's type: products of many rows are faster with it.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    wide: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        wide = 0 if self.wide is None else self.wide.nbytes
        return self.packed.nbytes + self.scales.nbytes + wide

    @property
    def elements(self) -> int:
        """How many weights these are."""
        return 8 * self.packed.numel()

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights that these stand for, (rows, columns), by torch alone."""
        rows, words = self.packed.shape
        pairs = self.packed.view(torch.uint8).view(rows, -1, 1, q4_0.BLOCK // 2)
        nibbles = torch.cat((pairs & 15, pairs >> 4), dim=2)
        centred = nibbles.view(rows, -1, q4_0.BLOCK).float() - 8
        return (centred * self.scales.float()[:, :, None]).view(rows, 8 * words).to(dtype)


@dataclass(frozen=True, slots=True)
class Fp8:
    """weight (rows, columns) in e4m3 and scales (rows,) float32, one a row; see `lean.fp8`."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self.weight.nbytes + self.scales.nbytes

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights that these stand for, (rows, columns)."""
        return (self.weight.float() * self.scales[:, None]).to(dtype)


Linear: TypeAlias = Dense | Int4 | Fp8


def join(layers: Sequence[Any]) -> Dense:
    """Several `nn.Linear` with one input as one; they become views of it, so nothing is held twice."""
    if len(layers) == 1:
        (only,) = layers
        return Dense(only.weight.data, None if only.bias is None else only.bias.data)
    weight = torch.cat([layer.weight.data for layer in layers])
    bias = None
    if any(layer.bias is not None for layer in layers):
        bias = torch.cat([_bias(layer) for layer in layers])
    start = 0
    for layer in layers:
        rows = layer.weight.shape[0]
        layer.weight.data = weight[start : start + rows]
        start += rows
    return Dense(weight, bias)


def _bias(layer: Any) -> torch.Tensor:
    weight = layer.weight
    return weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.data


def quantize(dense: Dense, device: torch.device, kind: torch.dtype) -> Linear:
    """bigdl-llm's rounding into its blocks; a matrix without whole blocks is held in `kind`."""
    rows, columns = dense.weight.shape
    bias = None if dense.bias is None else dense.bias.to(device, kind)
    if columns % q4_0.BLOCK:
        return Dense(dense.weight.to(device, kind), bias)
    pairs, scales = q4_0.quantize(dense.weight.cpu())
    both = np.stack(((pairs & 15) ^ 8, (pairs >> 4) ^ 8), axis=2)
    values = both.reshape(rows, columns).astype(np.uint8)
    return Int4(_pack(values).to(device), torch.as_tensor(scales).to(device), bias)


def from_blocks(blocks: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(packed, scales) of `Int4`, value for value, from bigdl-llm's blocks (bytes,) uint8."""
    shaped = blocks.reshape(rows, columns // q4_0.BLOCK, q4_0.BLOCK_BYTES).numpy()
    scales = np.ascontiguousarray(shaped[:, :, :2]).view(np.float16)[:, :, 0]
    packed = np.ascontiguousarray(shaped[:, :, 2:]).reshape(rows, columns // 2)
    return torch.as_tensor(packed.view(np.int32)), torch.as_tensor(scales.copy())


def _pack(values: NDArray[np.uint8]) -> torch.Tensor:
    """Values 0 to 15, (rows, columns), as `Int4.packed`."""
    rows, columns = values.shape
    halves = values.reshape(rows, columns // q4_0.BLOCK, 2, q4_0.BLOCK // 2)
    packed = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return torch.as_tensor(packed.reshape(rows, columns // 2).view(np.int32))
