"""A layer's matrices as the lean decoder holds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch

from penstock.models.weights import q4_0
from penstock.models.weights.published import floats

if TYPE_CHECKING:
    from collections.abc import Sequence

FP8_GROUP: Final = 128
"""Columns that share a scale in `Fp8Blocks`."""

_QUARTER: Final = q4_0.BLOCK // 4
"""Words of 64 columns of experts' codes."""


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
    """Codes of 4 bit; `group` neighbours in a row have a scale. A weight is scale * (code - zero).

    `packed` is (rows, columns / 8) int32. A block of 64 columns, or of 32 in groups of 32, is half as
    many bytes: their low nibbles are its first half of columns, the high ones the others.
    `scales` is (rows, columns / group) of a float type, `zeros` the same of any type: by how much
    zero differs from 8; None: nowhere. In groups of 64 without zeros this is bigdl-llm's sym_int4.
    With an `order` (columns,) int32 column i is the input's column order[i]; the input may have more
    columns, `inputs` if that is not 0. Codes that are `floats`
    are MXFP4's E2M1. `wide` (rows, columns), if there is room for it, is what these stand for in the
    model's type: products of many rows are faster with it.

    Experts have a first dimension more, and `packed` of them is (experts, rows, columns / 4) int16, the
    four codes of a word 16 columns apart.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    wide: torch.Tensor | None = None
    group: int = q4_0.BLOCK
    zeros: torch.Tensor | None = None
    order: torch.Tensor | None = None
    inputs: int = 0
    floats: bool = False

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        others = (self.zeros, self.order, self.wide)
        beside = sum(tensor.nbytes for tensor in others if tensor is not None)
        return self.packed.nbytes + self.scales.nbytes + beside

    @property
    def elements(self) -> int:
        """How many weights these are."""
        return 2 * self.packed.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""
        *outer, words = self.packed.shape
        return (*outer, 2 * words * self.packed.itemsize)

    @property
    def block(self) -> int:
        """Columns that are packed together."""
        return min(self.group, q4_0.BLOCK)

    def expert(self, number: int) -> Int4:
        """One expert's matrix."""
        zeros = None if self.zeros is None else self.zeros[number]
        return replace(self, packed=self.packed[number], scales=self.scales[number], zeros=zeros)

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights that these stand for, (rows, inputs), by torch alone."""
        *outer, columns = self.shape
        codes = self._codes().reshape(*outer, -1, self.group)
        if self.floats:
            numbers = torch.tensor(floats.E2M1, device=codes.device)[codes.int()]
        else:
            numbers = codes.float() - 8
        if self.zeros is not None:
            numbers -= self.zeros.float()[..., None]
        values = (numbers * self.scales.float()[..., None]).view(*outer, columns).to(dtype)
        if self.order is None:
            return values
        placed = values.new_zeros((*outer, self.inputs or columns))
        placed[..., self.order.long()] = values
        return placed

    def _codes(self) -> torch.Tensor:
        """uint8, blocks of columns together in the last two dimensions."""
        pairs = self.packed.view(torch.uint8)
        outer = pairs.shape[:-1]
        if self.packed.dtype == torch.int16:
            pairs = pairs.view(*outer, -1, _QUARTER, 2)
            return torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(-2).transpose(-1, -2)
        pairs = pairs.view(*outer, -1, 1, self.block // 2)
        return torch.cat((pairs & 15, pairs >> 4), dim=-2)


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


@dataclass(frozen=True, slots=True)
class Fp8Blocks:
    """weight (rows, columns) in e4m3; `FP8_GROUP` neighbours in a row share one of `scales`.

    `scales` is (rows, columns / FP8_GROUP, rounded up) float32. Activations keep the model's type.
    `wide` and experts are as in `Int4`.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    wide: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        wide = 0 if self.wide is None else self.wide.nbytes
        return self.weight.nbytes + self.scales.nbytes + wide

    @property
    def elements(self) -> int:
        """How many weights these are."""
        return self.weight.numel()

    def expert(self, number: int) -> Fp8Blocks:
        """One expert's matrix."""
        return replace(self, weight=self.weight[number], scales=self.scales[number])

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights that these stand for, (rows, columns), by torch alone."""
        columns = self.weight.shape[-1]
        scales = self.scales.repeat_interleave(FP8_GROUP, dim=-1)[..., :columns]
        return (self.weight.float() * scales).to(dtype)


Linear: TypeAlias = Dense | Int4 | Fp8 | Fp8Blocks

Matrices: TypeAlias = torch.Tensor | Int4 | Fp8Blocks
"""Of all experts of a layer, (experts, rows, columns)."""


def take_alike(one: Linear, other: Linear) -> bool:
    """Whether products with these take their rows in the same form."""
    if isinstance(one, Int4) and isinstance(other, Int4):
        return one.block == other.block and one.order is None and other.order is None
    return type(one) is type(other)


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
    bias = None if dense.bias is None else dense.bias.to(device, kind)
    if dense.weight.shape[1] % q4_0.BLOCK:
        return Dense(dense.weight.to(device, kind), bias)
    codes, scales = _rounded(dense.weight)
    return Int4(pack(codes, q4_0.BLOCK).to(device), scales.to(device), bias)


def quantize_experts(weights: torch.Tensor, device: torch.device, kind: torch.dtype) -> Matrices:
    """The same of all experts' matrices (experts, rows, columns)."""
    count, rows, columns = weights.shape
    if columns % q4_0.BLOCK:
        return weights.to(device, kind)
    codes, scales = _rounded(weights.reshape(count * rows, columns))
    packed = pack_experts(codes).view(count, rows, -1)
    return Int4(packed.to(device), scales.view(count, rows, -1).to(device), None)


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (rows, columns) uint8 and their scales, as bigdl-llm rounds."""
    pairs, scales = q4_0.quantize(weight.cpu())
    both = np.stack(((pairs & 15) ^ 8, (pairs >> 4) ^ 8), axis=2)
    codes = torch.as_tensor(both.reshape(weight.shape).astype(np.uint8))
    return codes, torch.as_tensor(scales)


def from_blocks(blocks: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(packed, scales) of `Int4`, value for value, from bigdl-llm's blocks (bytes,) uint8."""
    shaped = blocks.reshape(rows, columns // q4_0.BLOCK, q4_0.BLOCK_BYTES).numpy()
    scales = np.ascontiguousarray(shaped[:, :, :2]).view(np.float16)[:, :, 0]
    packed = np.ascontiguousarray(shaped[:, :, 2:]).reshape(rows, columns // 2)
    return torch.as_tensor(packed.view(np.int32)), torch.as_tensor(scales.copy())


def pack_experts(codes: torch.Tensor) -> torch.Tensor:
    """Codes 0 to 15, (..., columns) uint8, as `Int4.packed` of experts."""
    *outer, columns = codes.shape
    quarters = codes.view(*outer, columns // q4_0.BLOCK, 4, _QUARTER)
    low, high = (quarters[..., at, :] | (quarters[..., at + 1, :] << 4) for at in (0, 2))
    packed = torch.stack((low, high), dim=-1)
    return packed.reshape(*outer, columns // 2).view(torch.int16)


def pack(codes: torch.Tensor, block: int) -> torch.Tensor:
    """Codes 0 to 15, (..., columns) uint8, as `Int4.packed` in blocks of so many columns."""
    *outer, columns = codes.shape
    halves = codes.view(*outer, columns // block, 2, block // 2)
    packed = halves[..., 0, :] | (halves[..., 1, :] << 4)
    return packed.reshape(*outer, columns // 2).view(torch.int32)
