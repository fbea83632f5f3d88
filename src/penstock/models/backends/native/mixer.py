"""Layers that keep a state, as the native library has them: their sizes, matrices and vectors."""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.mixers import Recurrence, ShortConvolution
from penstock.models.backends.native.layout import Vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.mixers import Mixer
    from penstock.models.architecture.rows import Rows
    from penstock.models.weights.source import Weights

_DELTA: Final = 1
_STATE_SPACE: Final = 2
_SHORT_CONVOLUTION: Final = 3
_KEYED_DELTA: Final = 4
_RULES: Final = {"delta": _DELTA, "state_space": _STATE_SPACE, "keyed_delta": _KEYED_DELTA}
_GATE_ALONE: Final = 0
_NORM_THEN_GATE: Final = 1
_GATE_THEN_NORM: Final = 2
_NORM_THEN_SWITCH: Final = 3


class _Mixer(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "kind",
                "key_heads",
                "value_heads",
                "key_size",
                "value_size",
                "width",
                "silu",
                "order",
                "norm_size",
                "step_rank",
                "gate_rank",
            )
        ),
        *(
            (name, ctypes.c_float)
            for name in (
                "norm_epsilon",
                "least_step",
                "most_step",
                "step_scale",
                "gate_scale",
                "scale",
            )
        ),
    )


@dataclass(frozen=True, slots=True)
class NativeMixer:
    """`pn_mixer`, field by field."""

    kind: int
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    width: int
    silu: bool
    order: int = _GATE_ALONE
    norm_size: int = 0
    step_rank: int = 0
    gate_rank: int = 0
    norm_epsilon: float = 0.0
    least_step: float = 0.0
    most_step: float = float("inf")
    step_scale: float = 1.0
    gate_scale: float = 1.0
    scale: float = 1.0

    def native(self) -> ctypes.Structure:
        """The library's own structure."""
        return _Mixer(*astuple(self))


def native_mixer(mixer: Mixer) -> NativeMixer:
    """A described mixer in the library's words."""
    if isinstance(mixer, ShortConvolution):
        return NativeMixer(_SHORT_CONVOLUTION, 0, 1, 0, mixer.size, mixer.width, silu=False)
    norm = mixer.norm
    return NativeMixer(
        kind=_RULES[mixer.rule],
        key_heads=mixer.key_heads,
        value_heads=mixer.value_heads,
        key_size=mixer.key_size,
        value_size=mixer.value_size,
        width=mixer.width,
        silu=True,
        order=_order(mixer),
        norm_size=0 if norm is None else norm.size,
        step_rank=0 if mixer.step_down is None else mixer.step_down.rows,
        gate_rank=0 if mixer.gate_down is None else mixer.gate_down.rows,
        norm_epsilon=0.0 if norm is None else norm.epsilon,
        least_step=mixer.least_step,
        most_step=mixer.most_step,
        step_scale=mixer.step_scale,
        gate_scale=mixer.gate_scale,
        scale=mixer.result_scale,
    )


def _order(mixer: Recurrence) -> int:
    if mixer.norm is None:
        return _GATE_ALONE
    if mixer.norm.gated_first:
        return _GATE_THEN_NORM
    return _NORM_THEN_SWITCH if mixer.gate_is_sigmoid else _NORM_THEN_GATE


def inputs(mixer: Mixer) -> tuple[Rows, ...]:
    """The parts of a mixer's first product, in the library's order."""
    if isinstance(mixer, ShortConvolution):
        return (mixer.value, mixer.before, mixer.after)
    weights = () if mixer.weight is None else (mixer.weight,)
    if mixer.step_down is not None and mixer.gate_down is not None:
        down = (mixer.step_down, mixer.gate_down)
        return (mixer.query, mixer.key, mixer.value, *weights, *down)
    return (mixer.query, mixer.key, mixer.value, mixer.gate, *weights, mixer.step)


def vectors(mixer: Mixer, weights: Weights) -> Iterator[tuple[Vector, NDArray[np.float32]]]:
    """What a mixer has beside its products and their biases.

    :raises ModelNotLoadable: the checkpoint lacks one, or has one of another size.
    """
    parts = (mixer.convolution,) if isinstance(mixer, ShortConvolution) else mixer.convolution
    scales = (1.0,) if isinstance(mixer, ShortConvolution) else mixer.scales
    by_channel = np.repeat(np.array(scales, np.float32), [part.rows for part in parts])
    located = _located(parts, weights)
    whole = _channels("weight", located, weights).reshape(-1, mixer.width)
    yield Vector.CONVOLUTION, (whole * by_channel[:, None]).T
    if weights.has(f"{located[0].name}.bias"):
        yield Vector.CONVOLUTION_BIAS, _channels("bias", located, weights)
    if isinstance(mixer, Recurrence):
        yield from _of_states(mixer, weights)


def _located(parts: tuple[Rows, ...], weights: Weights) -> tuple[Rows, ...]:
    """Return where a convolution's parts are: in tensors of their own, or, if these are missing, in one.

    Transformers' modules join them under the name that the parts' names end in.
    """
    if weights.has(f"{parts[0].name}.weight"):
        return parts
    base, _, own = parts[0].name.rpartition(".")
    name, total = f"{base}.{own.rpartition('_')[2]}", sum(part.rows for part in parts)
    first = 0
    found: list[Rows] = []
    for part in parts:
        found.append(replace(part, name=name, first=first, total=total))
        first += part.rows
    return tuple(found)


def _channels(kind: str, parts: tuple[Rows, ...], weights: Weights) -> NDArray[np.float32]:
    """Return the values of a convolution's channels, part after part.

    :raises ModelNotLoadable: a tensor has another number of channels.
    """
    tensors = {name: weights.vector(name) for name in {f"{part.name}.{kind}" for part in parts}}
    for part in parts:
        count = len(tensors[f"{part.name}.{kind}"])
        if count != part.tensor_rows:
            raise ModelNotLoadable(f"{part.name} has {count} channels, not {part.tensor_rows}")
    return np.concatenate(
        [tensors[f"{part.name}.{kind}"][part.first : part.first + part.rows] for part in parts]
    )


def _of_states(mixer: Recurrence, weights: Weights) -> Iterator[tuple[Vector, NDArray[np.float32]]]:
    yield Vector.DECAY_RATES, np.exp(weights.vector(mixer.rates)).reshape(-1)
    yield Vector.STEP_BIAS, weights.vector(mixer.step_bias)
    if mixer.skip is not None:
        yield Vector.SKIP, weights.vector(mixer.skip)
    if mixer.norm is not None:
        own = weights.vector(f"{mixer.norm.name}.weight").reshape(-1)
        yield Vector.MIXER_NORM, np.resize(own, mixer.value_heads * mixer.value_size)
