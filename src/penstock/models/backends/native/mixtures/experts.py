"""A layer's experts in the native library's form."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import astuple, dataclass

_SIZES = (
    "experts",
    "chosen",
    "intermediate",
    "shared",
    "scoring",
    "normalise",
    "groups",
    "chosen_groups",
    "group_best",
    "gate",
    "gated",
    "apart",
)
_FACTORS = (
    "least_sum",
    "added_sum",
    "scale",
    "shared_scale",
    "gate_alpha",
    "gate_limit",
)


class Scoring(enum.IntEnum):
    """The function from a router's logits to scores."""

    SOFTMAX = 0
    SOFTMAX_OF_CHOSEN = 1
    SIGMOID = 2


class Gate(enum.IntEnum):
    """What is computed of a gate's and an up projection's outputs, beside `traits.ACTIVATIONS`."""

    SILU = 0
    CLAMPED_SILU = 1


class NativeExperts(ctypes.Structure):
    """The library's own structure."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _SIZES),
        *((name, ctypes.c_float) for name in _FACTORS),
    )


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture's sizes and rules; `pn_experts` in the header explains each."""

    experts: int
    chosen: int
    intermediate: int
    shared: int = 0
    scoring: Scoring = Scoring.SOFTMAX
    normalise: bool = True
    groups: int = 1
    chosen_groups: int = 1
    group_best: int = 1
    gate: int = Gate.SILU
    gated: bool = True
    apart: bool = False
    least_sum: float = 0.0
    added_sum: float = 0.0
    scale: float = 1.0
    shared_scale: float = 1.0
    gate_alpha: float = 1.0
    gate_limit: float = 0.0

    def native(self) -> NativeExperts:
        """Return the same in the library's form."""
        return NativeExperts(*astuple(self))
