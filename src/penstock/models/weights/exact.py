"""Published codes as kernels compute with them, to the value."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import torch

from penstock.models.weights.matrices import INT4_GROUPS, Matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from penstock.models.weights.published.integers import Integers

_NIBBLE: Final = 4
_BYTE: Final = 8
_NESTED: Final[dict[int, Literal["k4", "k5", "k6"]]] = {4: "k4", 5: "k5", 6: "k6"}
_SIGN: Final = 128
_LARGEST_GROUP: Final = max(INT4_GROUPS)
_SMALLEST_GROUP: Final = 16


def together(parts: Sequence[Integers], *, tail: bool = False) -> list[Matrix] | None:
    """Matrices that one input feeds, in one format; None if no kernel holds such.

    Groups are cut to what all have in common, 128 at most, so scales may be repeated. With `tail`
    the last ones may have another of GGUF's nested formats than the first ones.
    """
    first = parts[0]
    if (nested := _nested(parts, tail=tail)) is not None:
        return nested
    if any(not _same_order(part, first) for part in parts):
        return None
    group = math.gcd(_LARGEST_GROUP, *(part.group for part in parts))
    symmetric = all(part.is_symmetric for part in parts)
    halves = all(_is_half(part.scales) for part in parts)
    rows = all(part.bits == _BYTE and part.group == part.shape[1] for part in parts)
    if symmetric and rows and first.order is None:
        return [_int8(part) for part in parts]
    if group < _SMALLEST_GROUP:
        return None
    if symmetric and halves and group in INT4_GROUPS and {part.bits for part in parts} == {_NIBBLE}:
        return [_int4(part, group) for part in parts]
    wide = not halves or any(part.zeros is None for part in parts)
    small = max(part.bits for part in parts) <= _NIBBLE
    return [_affine(part, group, small=small, wide=wide) for part in parts]


def _nested(parts: Sequence[Integers], *, tail: bool) -> list[Matrix] | None:
    """GGUF's Q4_K, Q5_K and Q6_K as they are stored; None if these are others."""
    if any(part.levels is None for part in parts):
        return None
    changes = sum(one.bits != other.bits for one, other in pairwise(parts))
    return None if changes > tail else [_in_levels(part) for part in parts]


def _in_levels(part: Integers) -> Matrix:
    assert part.levels is not None  # noqa: S101 - the caller has looked
    rows, columns = part.shape
    small = part.bits == _NIBBLE
    values = _pairs(part.codes) if small else part.codes.contiguous()
    kind = _NESTED[part.bits]
    return Matrix(kind, rows, columns, values.numpy(), part.levels.contiguous().numpy())


def _same_order(one: Integers, other: Integers) -> bool:
    if one.order is None or other.order is None:
        return one.order is other.order
    return torch.equal(one.order, other.order)


def _is_half(scales: torch.Tensor) -> bool:
    return scales.dtype == torch.float16 or torch.equal(scales.half().float(), scales.float())


def _int8(part: Integers) -> Matrix:
    rows, columns = part.shape
    values = (part.codes ^ _SIGN).view(torch.int8)
    scales = part.scales.float().contiguous()
    return Matrix("i8", rows, columns, values.numpy(), scales.numpy())


def _int4(part: Integers, group: int) -> Matrix:
    rows, columns = part.shape
    scales = part.scales.half().repeat_interleave(part.group // group, dim=1)
    values = _pairs(part.codes) ^ 0x88
    return Matrix("i4", rows, columns, values.numpy(), scales.numpy(), _order(part))


def _affine(part: Integers, group: int, *, small: bool, wide: bool) -> Matrix:
    """Codes without sign; scales (rows, groups, 2), each with its zero, or its offset if `wide`."""
    rows, columns = part.shape
    scales = part.scales.float()
    if not wide:
        assert part.zeros is not None  # noqa: S101 - the caller has looked
        second = part.zeros.float()
    elif part.offsets is not None:
        second = part.offsets
    else:
        assert part.zeros is not None  # noqa: S101 - one of the two is there
        second = -(scales * part.zeros.float())
    both = torch.stack((scales, second), dim=-1).repeat_interleave(part.group // group, dim=1)
    values = _pairs(part.codes) if small else part.codes.contiguous()
    kind = ("a4" if small else "a8") if wide else ("z4" if small else "z8")
    numbers = both if wide else both.half()
    return Matrix(kind, rows, columns, values.numpy(), numbers.numpy(), _order(part))


def _pairs(codes: torch.Tensor) -> torch.Tensor:
    rows, columns = codes.shape
    pairs = codes.reshape(rows, columns // 2, 2)
    return pairs[..., 0] | (pairs[..., 1] << _NIBBLE)


def _order(part: Integers) -> NDArray[np.int32] | None:
    return None if part.order is None else part.order.to(torch.int32).contiguous().numpy()
