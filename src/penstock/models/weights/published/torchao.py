"""torchao's tensors, as its safetensors files have them: `qdata` with `scale` and `zero_point`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from penstock.models.weights.published import floats
from penstock.models.weights.published.integers import Integers, NotReadable, by_index, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.weights.published.floats import Fp8Codes

_MIDDLE_4: Final = 8
_MIDDLE_8: Final = 128
_MATRIX: Final = 2


def read(part: Callable[[str], torch.Tensor | None]) -> Integers | Fp8Codes | torch.Tensor:
    """Read one matrix; `part` returns its tensors by their names at torchao.

    :raises NotReadable: in a layout that is unknown here, or its sizes do not fit together.
    """
    codes, scales, zeros = part("qdata"), part("scale"), part("zero_point")
    if codes is None or scales is None or codes.dim() != _MATRIX or scales.dim() != _MATRIX:
        raise NotReadable("a tensor of torchao without qdata or scale, or of more dimensions")
    if part("act_pre_scale") is not None:
        raise NotReadable("activations with scales of their own")
    if codes.dtype in floats.FP8_TYPES:
        return floats.fp8(codes, scales, _block(codes, scales))
    if codes.dtype != torch.int8:
        raise NotReadable(f"codes of {codes.dtype}")
    if zeros is not None and zeros.is_floating_point():
        return _two_a_byte(codes, scales, zeros)
    own = torch.zeros(scales.shape, dtype=torch.int16) if zeros is None else zeros.to(torch.int16)
    whole = (codes.to(torch.int16) + _MIDDLE_8).to(torch.uint8)
    return by_index(whole, 8, scales.contiguous(), (own + _MIDDLE_8).contiguous(), None)


def _two_a_byte(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> Integers:
    """Signed codes, the even column low; scales and the values of code 0 lie (groups, rows)."""
    rows, columns = codes.shape[0], 2 * codes.shape[1]
    if scales.shape != zeros.shape or scales.shape[1] != rows or columns % scales.shape[0]:
        raise NotReadable(f"codes {tuple(codes.shape)} with scales {tuple(scales.shape)}")
    nibbles = unpacked(codes.view(torch.uint8).contiguous().view(torch.int32), 4, 1)
    scale, middle = scales.T.contiguous(), zeros.T.float()
    offsets = middle - _MIDDLE_4 * scale.float()
    return Integers(
        (nibbles ^ _MIDDLE_4).contiguous(), 4, columns // scales.shape[0], scale,
        offsets=offsets.contiguous(),
    )  # fmt: skip


def _block(codes: torch.Tensor, scales: torch.Tensor) -> tuple[int, int] | None:
    """The rows and columns that share a scale; None by row or by matrix."""
    if scales.shape[1] == 1:
        return None
    return -(-codes.shape[0] // scales.shape[0]), -(-codes.shape[1] // scales.shape[1])
