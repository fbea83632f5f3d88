"""What a decoder in the native library is made of: its sizes, and its matrices' places."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Which(enum.IntEnum):
    """A matrix's place in a layer; `HEAD` and `LAYER_INPUTS` belong to none."""

    QKV = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4
    EXPERTS_GATE_UP = 5
    EXPERTS_DOWN = 6
    MIXER_IN = 7
    MIXER_OUT = 8
    QUERY_UP = 9
    LAYER_INPUTS = 10
    INPUT_GATE = 11
    INPUT_UP = 12
    DETOUR = 13
    STEP_UP = 14
    MIXER_GATE_UP = 15


class Vector(enum.IntEnum):
    """A vector's place in a layer; `FINAL_NORM` and `LAYER_INPUTS_NORM` belong to none."""

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
    VALUE_NORM = 40
    LAYER_SCALE = 41
    QUERY_RANK_NORM = 42
    LATENT_NORM = 43
    LAYER_INPUTS_NORM = 44
    INPUT_OUT_NORM = 45
    ROUTER_NORM = 46
    EXPERTS_IN_NORM = 47
    DENSE_OUT_NORM = 48
    EXPERTS_OUT_NORM = 49
    EXPERT_SCALES = 50
    MIXER_INPUT_NORM = 51
    INDEX_NORM = 52
    INDEX_NORM_BIAS = 53


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
        ("small_cache", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, in elements. `sliding_windows` is one entry a layer, 0 for full attention.

    `small_cache`: keys and values are in 8 bit, with a scale a token and head each.
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
    small_cache: bool = False


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
        int(shape.small_cache),
    )
    return native, windows
