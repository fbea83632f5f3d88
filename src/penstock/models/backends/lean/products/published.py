"""Published codes as matrices of the lean decoder, to the value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from penstock.models.backends.lean.products.linear import (
    FP8_GROUP,
    Fp8Blocks,
    Int4,
    pack,
    pack_experts,
)
from penstock.models.weights import q4_0
from penstock.models.weights.published import floats
from penstock.models.weights.published.floats import Fp8Codes
from penstock.models.weights.published.integers import Integers

if TYPE_CHECKING:
    from collections.abc import Sequence

_BITS: Final = 4
_MIDDLE: Final = 1 << (_BITS - 1)
_GROUPS: Final = (32, 64, 128)
"""Columns that share a scale; larger groups are cut into these, and their scales repeated."""
_MX_GROUP: Final = 32


def joined(
    parts: Sequence[Integers | Fp8Codes | torch.Tensor],
    bias: torch.Tensor | None,
    device: torch.device,
    *,
    of_expert: bool = False,
) -> Int4 | Fp8Blocks | None:
    """Matrices that one input feeds, one after another; None if no kernel holds such together."""
    integers = [part for part in parts if isinstance(part, Integers)]
    if len(integers) == len(parts):
        return _four_bits(integers, bias, device, of_expert=of_expert)
    bytewise = [part for part in parts if isinstance(part, Fp8Codes)]
    if len(bytewise) == len(parts):
        return _eight_bits(bytewise, bias, device)
    return None


def stacked(matrices: Sequence[Int4 | Fp8Blocks | None]) -> Int4 | Fp8Blocks | None:
    """All experts' matrices as one, (experts, rows, columns); None if they differ in their form."""
    fours = [one for one in matrices if isinstance(one, Int4)]
    eights = [one for one in matrices if isinstance(one, Fp8Blocks)]
    if len(eights) == len(matrices):
        codes = torch.stack([one.weight.view(torch.uint8) for one in eights])
        weight = codes.view(eights[0].weight.dtype)
        return Fp8Blocks(weight, torch.stack([one.scales for one in eights]), None)
    if len(fours) < len(matrices) or len({one.group for one in fours}) != 1:
        return None
    zeros = None
    if any(one.zeros is not None for one in fours):
        zeros = torch.stack([_zeros(one) for one in fours])
    if (
        zeros is not None and zeros.is_floating_point()
    ):  # of offsets: no number of 16 bits less these
        return None
    return Int4(
        torch.stack([one.packed for one in fours]),
        torch.stack([one.scales for one in fours]),
        None,
        group=fours[0].group,
        zeros=zeros,
    )


def mxfp4(blocks: torch.Tensor, scales: torch.Tensor, device: torch.device) -> Int4:
    """MXFP4's blocks (experts, rows, columns / 32, 16); see `floats.mxfp4`."""
    codes, powers = floats.mxfp4_codes(blocks.to(device), scales.to(device))
    packed = pack_experts(codes.flatten(-2))
    return Int4(packed, powers.bfloat16(), None, group=_MX_GROUP, floats=True)


def _zeros(one: Int4) -> torch.Tensor:
    return torch.zeros_like(one.scales, dtype=torch.int8) if one.zeros is None else one.zeros


def _four_bits(
    parts: Sequence[Integers],
    bias: torch.Tensor | None,
    device: torch.device,
    *,
    of_expert: bool,
) -> Int4 | None:
    """None: codes of more bits, groups that are too small, or columns in different orders.

    Experts' columns must have no order, and be whole blocks.
    """
    if of_expert and (parts[0].order is not None or parts[0].shape[1] % q4_0.BLOCK):
        return None
    group = math.gcd(_GROUPS[-1], *(part.group for part in parts))
    first = parts[0].order
    if group not in _GROUPS or any(part.bits > _BITS for part in parts):
        return None
    if any(not _same(part.order, first) for part in parts):
        return None
    zeros = None
    if not all(part.is_symmetric and part.bits == _BITS for part in parts):
        found = [_from_middle(part, group) for part in parts]
        if any(one is None for one in found):
            return None
        zeros = torch.cat([one for one in found if one is not None]).to(device)
    codes = torch.cat([part.codes.to(device) for part in parts])
    kinds = {part.scales.dtype for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    scales = torch.cat([_repeated(part.scales.to(device, kind), part, group) for part in parts])
    return Int4(
        pack_experts(codes) if of_expert else pack(codes, min(group, q4_0.BLOCK)),
        scales.contiguous(),
        bias,
        group=group,
        zeros=zeros,
        order=None if first is None else first.to(device, torch.int32),
    )


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _repeated(tensor: torch.Tensor, part: Integers, group: int) -> torch.Tensor:
    return tensor.repeat_interleave(part.group // group, dim=1)


def _from_middle(part: Integers, group: int) -> torch.Tensor | None:
    """By how much zeros differ from 8; of offsets float32. None: an offset beside a scale of 0."""
    if part.zeros is not None:
        return _repeated((part.zeros.to(torch.int16) - _MIDDLE).to(torch.int8), part, group)
    assert part.offsets is not None  # noqa: S101 - one of the two is there
    scales, offsets = part.scales.float(), part.offsets.float()
    if bool(((scales == 0) & (offsets != 0)).any()):
        return None
    shifts = torch.where(scales == 0, 0, -offsets / scales) - _MIDDLE
    return _repeated(shifts, part, group)


def _eight_bits(
    parts: Sequence[Fp8Codes], bias: torch.Tensor | None, device: torch.device
) -> Fp8Blocks | None:
    """None: another kind of FP8, or blocks that are no multiple of `FP8_GROUP`."""
    columns = parts[0].codes.shape[1]
    if any(part.codes.dtype != torch.float8_e4m3fn for part in parts):
        return None
    if any(part.group % FP8_GROUP and part.group != columns for part in parts):
        return None
    groups = -(-columns // FP8_GROUP)
    scales = [
        part.scales.repeat_interleave(-(-part.group // FP8_GROUP), dim=1)[:, :groups]
        for part in parts
    ]
    codes = torch.cat([part.codes.view(torch.uint8) for part in parts])
    weight = codes.to(device).view(torch.float8_e4m3fn)
    return Fp8Blocks(weight, torch.cat(scales).to(device).contiguous(), bias)
