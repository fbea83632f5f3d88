"""The formats that a GPU holds a decoder's matrices in, beside the model's own type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import (
    Dense,
    Linear,
    Matrices,
    quantize,
    quantize_experts,
)
from penstock.models.spec import DEFAULT_LOW_BIT, FP8_FORMAT
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from penstock.models.devices.device import Device
    from penstock.models.spec import ModelSpec

Hold: TypeAlias = Callable[[Dense, torch.device, torch.dtype], Linear]
"""Converts a matrix to a format on a device, or to the given type if the format cannot have it."""


HoldExperts: TypeAlias = Callable[[torch.Tensor, torch.device, torch.dtype], Matrices]
"""The same of all experts' matrices, (experts, rows, columns)."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One format.

    `head`: the head has it too. `block`: columns by so many can be cut off a matrix.
    `of_whole_rows`: a scale is a row's, so that a matrix is held before it is cut.
    """

    format: str
    hold: Hold
    hold_experts: HoldExperts
    head: bool
    block: int
    of_whole_rows: bool


SYM_INT4: Final = Holding(
    DEFAULT_LOW_BIT,
    quantize,
    quantize_experts,
    head=True,
    block=q4_0.BLOCK,
    of_whole_rows=False,
)
FP8: Final = Holding(
    FP8_FORMAT, fp8.hold, fp8.hold_experts, head=False, block=fp8.ALIGNED, of_whole_rows=True
)


def holding_of(spec: ModelSpec, device: Device) -> Holding | None:
    """The format that a GPU is asked to hold a model in; None for a plain type.

    :raises ModelNotLoadable: no GPU holds it, or not this device.
    """
    if spec.backend == "transformers":
        if spec.format != FP8.format:
            return None
        lack = device.lacks_fp8()
        if lack is not None:
            raise ModelNotLoadable(
                f"queue {spec.queue!r}: format = 'fp8': {lack}; "
                f"serve the model with format = 'bf16' or 'sym_int4'"
            )
        return FP8
    if (spec.format or SYM_INT4.format) != SYM_INT4.format:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: format = {spec.format!r}: a GPU holds {SYM_INT4.format}; "
            f"serve the model on cpu, or with another format"
        )
    return SYM_INT4
