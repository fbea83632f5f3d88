"""The sizes of published matrices, from the sizes of the tensors that stand for them. No torch here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Sizes = tuple[int, ...]

BESIDE: Final = re.compile(
    r"\.(?:qzeros|scales|g_idx|weight_scale|weight_shape|weight_zero_point|weight_g_idx"
    r"|weight_scale_inv|SCB|weight_format|(?:input|output|q|k|v)_scale"
    r"|_weight_(?:scale|zero_point|act_quant_scale|act_quant_zero_point|act_pre_scale)"
    r"|(?:input|output)_zero_point|weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map"
    r"|quant_state\..*))$|_scale_inv$"
)
"""Names of tensors that only describe a matrix."""
TORCHAO: Final = "._weight_qdata"
CODES: Final = (".qweight", ".weight_packed", TORCHAO)
"""Ends of the names of codes; the matrix itself would be `.weight`."""
BLOCKS: Final = "_blocks"
_WORD_BITS: Final = 32
_AWQ_CODES: Final = 8


def is_beside(name: str, names: Mapping[str, object] | set[str]) -> bool:
    """Return whether a tensor only describes a matrix of codes."""
    if BESIDE.search(name):
        return True
    return name.endswith("_scales") and f"{name.removesuffix('_scales')}{BLOCKS}" in names


def dense(name: str, shapes: Mapping[str, Sizes]) -> tuple[str, Sizes] | None:
    """The name and sizes of the matrix that codes stand for.

    No sizes for what belongs to another tensor; None for a tensor that is no code.
    """
    if is_beside(name, shapes):
        return name, ()
    shape = shapes[name]
    for end, beside, sizes in (
        (".qweight", ".qzeros", _of_words),
        (".weight_packed", ".weight_scale", _of_groups),
        (TORCHAO, "._weight_scale", _of_torchao),
    ):
        if name.endswith(end):
            stem = name.removesuffix(end)
            return f"{stem}.weight", sizes(shape, shapes.get(stem + beside, ()))
    if name.endswith(BLOCKS) and f"{name.removesuffix(BLOCKS)}_scales" in shapes:
        return name.removesuffix(BLOCKS), (*shape[:-2], shape[-2] * shape[-1] * 2)
    if f"{name}.absmax" in shapes:
        return name, (2 * shape[0], 1)
    return (name, shape) if _has_scales(name, shapes) else None


def _of_torchao(codes: Sizes, scales: Sizes) -> Sizes:
    """Codes of 4 bit, two a byte, have scales that lie (groups, rows); all others (rows, groups)."""
    rows, columns = codes
    lying = len(scales) == 2 and scales[0] != rows and scales[1] == rows  # noqa: PLR2004  a matrix
    return (rows, 2 * columns) if lying else codes


def _has_scales(name: str, shapes: Mapping[str, Sizes]) -> bool:
    ends = ("_scale_inv", "_scale")
    stem = name.removesuffix(".weight")
    return any(name + end in shapes for end in ends) or f"{stem}.SCB" in shapes


def _of_words(words: Sizes, zeros: Sizes) -> Sizes:
    """GPTQ's words lie along the inputs, AWQ's along the outputs, as its zeros do."""
    inputs, outputs = words
    if len(zeros) == 2 and zeros[1] == outputs:  # noqa: PLR2004  a matrix
        return outputs * _AWQ_CODES, inputs
    bits = _WORD_BITS * zeros[1] // outputs if len(zeros) == 2 and outputs else 4  # noqa: PLR2004  a matrix
    return outputs, inputs * _WORD_BITS // max(bits, 1)


def _of_groups(words: Sizes, scales: Sizes) -> Sizes:
    """As many columns as their groups allow: codes of 4 bit unless groups would be too long."""
    rows, count = words
    groups = scales[1] if len(scales) == 2 else 1  # noqa: PLR2004  a matrix
    eight = count * _WORD_BITS // 8
    usual = {16, 32, 64, 128, 256}
    if groups > 1 and eight // groups in usual and eight * 2 // groups not in usual:
        return rows, eight
    return rows, 2 * eight
