"""compressed-tensors' layouts of integers: several codes in a word, or a byte each."""

from __future__ import annotations

from typing import Final

import torch

from penstock.models.weights.published.integers import (
    LARGEST_BITS,
    Integers,
    NotReadable,
    by_index,
    unpacked,
)

_WORD_BITS: Final = 32


def packed(
    words: torch.Tensor,
    scales: torch.Tensor,
    shape: tuple[int, int],
    zero_words: torch.Tensor | None,
    index: torch.Tensor | None,
) -> Integers | torch.Tensor:
    """Read `weight_packed`, `weight_scale`, `weight_shape`, `weight_zero_point`, `weight_g_idx`.

    Codes and zeros are stored without sign, half of their range added; zeros lie along the rows.

    :raises NotReadable: the sizes do not fit together.
    """
    rows, columns = shape
    bits = words.shape[1] * _WORD_BITS // columns
    if words.shape[0] != rows or -(-columns * bits // _WORD_BITS) != words.shape[1]:
        raise NotReadable(f"words {tuple(words.shape)} for a matrix {shape}")
    scales = scales.view(rows, -1) if scales.shape[0] == rows else scales.expand(rows, 1)
    codes = unpacked(words, bits, 1)[:, :columns].contiguous()
    zeros = torch.full(scales.shape, 1 << (bits - 1), dtype=torch.int16)
    if zero_words is not None:
        zeros = unpacked(zero_words, bits, 0)[:rows].to(torch.int16).contiguous()
    return by_index(codes, bits, scales, zeros, index)


def bytewise(
    values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None
) -> Integers | torch.Tensor:
    """Read `weight` of signed bytes with `weight_scale` by row, group or matrix, and `weight_zero_point`.

    :raises NotReadable: the sizes do not fit together.
    """
    rows = values.shape[0]
    half = 1 << (LARGEST_BITS - 1)
    scales = scales.reshape(rows, -1) if scales.numel() % rows == 0 else scales.reshape(1, -1)
    scales = scales.expand(rows, scales.shape[1])
    own = torch.full(scales.shape, half, dtype=torch.int16)
    if zeros is not None:
        own = zeros.to(torch.int16).reshape(-1, scales.shape[1]).expand(scales.shape) + half
    codes = (values.to(torch.int16) + half).to(torch.uint8)
    return by_index(codes, LARGEST_BITS, scales.contiguous(), own.contiguous(), None)
