"""What a decoder in the native library is made of: its sizes, and its matrices' places."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from penstock.models.backends.native.library import last_error, library

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Which(enum.IntEnum):
    """A matrix's place in a layer; `HEAD` belongs to none."""

    QKV = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4
    EXPERTS_GATE_UP = 5
    EXPERTS_DOWN = 6
    MIXER_IN = 7
    MIXER_OUT = 8


class Vector(enum.IntEnum):
    """A vector's place in a layer; `FINAL_NORM` belongs to none."""

    INPUT_NORM = 0
    ATTENTION_NORM = 1
    FINAL_NORM = 2
    QUERY_NORM = 3
    KEY_NORM = 4
    QKV_BIAS = 5
    OUTPUT_BIAS = 6
    GATE_UP_BIAS = 7
    DOWN_BIAS = 8
    ROUTER_BIAS = 9
    ROUTER_CORRECTION = 10
    EXPERTS_GATE_UP_BIAS = 11
    EXPERTS_DOWN_BIAS = 12
    SHARED_GATE = 13
    ATTENTION_OUT_NORM = 20
    MLP_OUT_NORM = 21
    INPUT_NORM_BIAS = 22
    ATTENTION_NORM_BIAS = 23
    FINAL_NORM_BIAS = 24
    SINKS = 25
    CONVOLUTION = 30
    CONVOLUTION_BIAS = 31
    DECAY_RATES = 32
    STEP_BIAS = 33
    SKIP = 34
    MIXER_NORM = 35
    MIXER_IN_BIAS = 36
    MIXER_OUT_BIAS = 37


class Phase(enum.IntEnum):
    """What a step's time goes into: five products, and what is between them."""

    QKV = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4
    ROTATION = 5
    ATTENTION = 6
    ROWS = 7


class _Shape(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "layers",
                "hidden",
                "intermediate",
                "heads",
                "kv_heads",
                "head_size",
                "vocab",
                "block_size",
                "qk_norm",
            )
        ),
        ("norm_epsilon", ctypes.c_float),
        ("sliding_windows", ctypes.c_void_p),
        ("cached_layers", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, in elements. `sliding_windows` is one entry a layer, 0 for full attention.

    `cached_layers` have attention; 0: all of them.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    block_size: int
    qk_norm: bool
    norm_epsilon: float
    sliding_windows: tuple[int, ...]
    cached_layers: int = 0


def cache_block_bytes(shape: Shape) -> int:
    """Bytes of one block of the KV cache, all layers.

    :raises ValueError: the shape makes no sense.
    """
    native, _windows = native_shape(shape)
    found = int(library().pn_cache_block_bytes(ctypes.byref(native)))
    if found < 0:
        raise ValueError(last_error())
    return found


def native_shape(shape: Shape) -> tuple[_Shape, NDArray[np.int32]]:
    """Return the library's structure, and the array that it points into.

    :raises ValueError: it has not one window a layer.
    """
    windows = np.array(shape.sliding_windows, np.int32)
    if len(windows) != shape.layers:
        raise ValueError(f"{len(windows)} sliding windows for {shape.layers} layers")
    native = _Shape(
        shape.layers,
        shape.hidden,
        shape.intermediate,
        shape.heads,
        shape.kv_heads,
        shape.head_size,
        shape.vocab,
        shape.block_size,
        int(shape.qk_norm),
        shape.norm_epsilon,
        windows.ctypes.data,
        shape.cached_layers,
    )
    return native, windows
