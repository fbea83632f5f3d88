"""GPTQ's layout, which AutoRound writes too, and AWQ's.

Both hold (inputs, outputs): codes in 32-bit words, GPTQ's along the inputs, AWQ's along the outputs
with the codes of a word in an order of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from penstock.models.weights.published.integers import NotReadable, by_index, unpacked

if TYPE_CHECKING:
    from penstock.models.weights.published.integers import Integers

_WORD_BITS: Final = 32
_AWQ_BITS: Final = 4
_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which code of a word is the output of that number among the word's eight."""


def gptq(
    words: torch.Tensor,
    zero_words: torch.Tensor,
    scales: torch.Tensor,
    index: torch.Tensor | None,
    *,
    added: int,
) -> Integers | torch.Tensor:
    """Read `qweight`, `qzeros`, `scales`, `g_idx`.

    How many bits a code has follows from the sizes, layer by layer. `added` to a stored zero is
    the zero: 1 in the first version of the format, 0 in the second.

    :raises NotReadable: the sizes do not fit together.
    """
    outputs = words.shape[1]
    if scales.dim() != 2 or scales.shape[1] != outputs or zero_words.shape[0] != scales.shape[0]:  # noqa: PLR2004  a matrix
        raise NotReadable(f"codes {tuple(words.shape)} with scales {tuple(scales.shape)}")
    bits = _WORD_BITS * zero_words.shape[1] // outputs
    codes = unpacked(words, bits, 0).T.contiguous()
    zeros = unpacked(zero_words, bits, 1)[:, :outputs].T.to(torch.int16) + added
    return by_index(codes, bits, scales.T.contiguous(), zeros.contiguous(), index)


def awq(
    words: torch.Tensor, zero_words: torch.Tensor | None, scales: torch.Tensor
) -> Integers | torch.Tensor:
    """Read `qweight`, `qzeros`, `scales` of the gemm layout.

    :raises NotReadable: the sizes do not fit together.
    """
    inputs, outputs = words.shape[0], words.shape[1] * _WORD_BITS // _AWQ_BITS
    if scales.dim() != 2 or scales.shape[1] != outputs or inputs % scales.shape[0]:  # noqa: PLR2004  a matrix
        raise NotReadable(f"codes {tuple(words.shape)} with scales {tuple(scales.shape)}")
    codes = _in_order(words).T.contiguous()
    if zero_words is None:
        zeros = torch.full(scales.T.shape, 1 << (_AWQ_BITS - 1), dtype=torch.int16)
    else:
        zeros = _in_order(zero_words).T.to(torch.int16).contiguous()
    return by_index(codes, _AWQ_BITS, scales.T.contiguous(), zeros, None)


def _in_order(words: torch.Tensor) -> torch.Tensor:
    codes = unpacked(words, _AWQ_BITS, 1)
    return codes.view(len(words), -1, 8)[..., _AWQ_ORDER].reshape(len(words), -1)
