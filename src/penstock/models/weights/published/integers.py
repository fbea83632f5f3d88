"""What a matrix of integer codes is, whatever layout it was published in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

SMALLEST_BITS: Final = 2
LARGEST_BITS: Final = 8
_WORD_BITS: Final = 32


class NotReadable(ValueError):
    """A published matrix that is damaged or in an unknown layout; the message names the problem."""


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix (rows, columns) as codes; rows are the layer's outputs.

    A weight is `scale * (code - zero)`, or `scale * code + offset`, of its row and its group.
    `codes` are (rows, columns) uint8 below `2 ** bits`; `group` columns beside each other share
    a scale. `scales` are (rows, groups) of a float type, exact; `zeros` (rows, groups) integers,
    or `offsets` (rows, groups) float32, one of the two. With `order` the codes' column `i` is
    the matrix's column `order[i]`: of an act-order checkpoint, which groups columns by weight.
    `levels` of GGUF's Q4_K, Q5_K and Q6_K, (rows, superblocks, bytes) uint8, have the same scales as
    they are stored by 256 columns: d, of the first two m, both in fp16; then eight whole numbers
    each, with which these are multiplied by group (of Q6_K sixteen, signed).
    """

    codes: torch.Tensor
    bits: int
    group: int
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    order: torch.Tensor | None = None
    levels: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.codes.shape
        return rows, columns

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the code in the middle, everywhere."""
        return self.zeros is not None and bool((self.zeros == 1 << (self.bits - 1)).all())

    def values(self) -> torch.Tensor:
        """The weights, (rows, columns) float32: the reference of every way to compute with them."""
        rows, columns = self.codes.shape
        codes = self.codes.view(rows, -1, self.group).float()
        scales = self.scales.float()[..., None]
        if self.offsets is not None:
            found = codes.mul_(scales).add_(self.offsets[..., None])
        else:
            assert self.zeros is not None  # noqa: S101 - one of the two is there
            found = codes.sub_(self.zeros.float()[..., None]).mul_(scales)
        found = found.view(rows, columns)
        if self.order is None:
            return found
        placed = torch.empty_like(found)
        placed[:, self.order] = found
        return placed

    def rows(self, first: int, count: int) -> Integers:
        """Some rows of it."""
        return self.taken(slice(first, first + count))

    def taken(self, rows: torch.Tensor | slice) -> Integers:
        """Some of its rows, or all in another order."""
        return Integers(
            self.codes[rows],
            self.bits,
            self.group,
            self.scales[rows],
            None if self.zeros is None else self.zeros[rows],
            None if self.offsets is None else self.offsets[rows],
            self.order,
            None if self.levels is None else self.levels[rows],
        )


def unpacked(words: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Codes of 32-bit words, uint8: each word's lowest bits first, along dimension `dim` of two.

    Codes of 3, 5, 6 and 7 bits go on in the next word.

    :raises NotReadable: codes of more bits, or of fewer.
    """
    if not SMALLEST_BITS <= bits <= LARGEST_BITS:
        raise NotReadable(f"codes of {bits} bits: {SMALLEST_BITS} to {LARGEST_BITS} are read")
    if dim == 0:
        return unpacked(words.T, bits, 1).T
    rows = words.shape[0]
    whole = words.contiguous().view(torch.uint8)  # little-endian: the lowest byte first
    if LARGEST_BITS % bits:
        return _across_words(words, bits)
    if bits == LARGEST_BITS:
        return whole.view(rows, -1)
    shifts = range(0, 8, bits)
    parts = [(whole >> shift) & ((1 << bits) - 1) for shift in shifts]
    return torch.stack(parts, dim=-1).view(rows, -1)


def _across_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    rows, count = words.shape
    first = torch.arange(count * _WORD_BITS // bits) * bits
    wide = words.to(torch.int64) & 0xFFFFFFFF
    wide = torch.cat((wide, wide.new_zeros((rows, 1))), dim=1)
    at = first // _WORD_BITS
    both = wide[:, at] | (wide[:, at + 1] << _WORD_BITS)
    return ((both >> (first % _WORD_BITS)) & ((1 << bits) - 1)).to(torch.uint8)


def by_index(
    codes: torch.Tensor,
    bits: int,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    index: torch.Tensor | None,
) -> Integers | torch.Tensor:
    """A matrix whose columns' groups are given by a list of numbers, as with act-order.

    Float32 values where groups are of several sizes. `index` None: groups of neighbours.

    :raises NotReadable: a number is of no group, or the sizes do not fit together.
    """
    columns, groups = codes.shape[1], scales.shape[1]
    if groups == 0 or scales.shape != zeros.shape or scales.shape[0] != codes.shape[0]:
        raise NotReadable(f"codes {tuple(codes.shape)} with scales {tuple(scales.shape)}")
    group = -(-columns // groups)
    if index is None:
        index = torch.arange(columns) // group
    index = index.long()
    if index.shape != (columns,) or int(index.min()) < 0 or int(index.max()) >= groups:
        raise NotReadable(f"a list of {index.numel()} groups for {columns} columns")
    if columns % groups or bool((index.bincount(minlength=groups) != group).any()):
        return (codes.float() - zeros[:, index].float()) * scales[:, index].float()
    order = index.argsort(stable=True)
    plain = bool((order == torch.arange(columns)).all())
    return Integers(
        codes if plain else codes[:, order],
        bits,
        group,
        scales,
        zeros,
        order=None if plain else order,
    )
