"""The boundary to `libpenstock_native.so`, by ctypes. `kernels/api/penstock_native.h` documents them.

The library is opened at the first use; ctypes lets other threads run while it computes. What it has
is in `matrix` (packed weights), `decoder` (whole models) and `attention` (over torch's cache).
Imports no numpy: if only the API is installed, the command line asks here what the CPU offers.
"""

from __future__ import annotations

import ctypes
import enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATH = Path(__file__).with_name("libpenstock_native.so")
ABI = 14
ALIGNMENT = 64
"""Alignment, in bytes, of packed matrices and the KV cache."""


class Isa(enum.IntEnum):
    """Instruction sets with separate kernels."""

    BEST = 0
    AVX2 = 1
    AVX_VNNI = 2
    AVX512_VNNI = 3


class StepInput(ctypes.Structure):
    """A step's sequences, as `pn_step_input` has them."""

    _fields_ = (
        ("tokens", ctypes.c_int32),
        ("sequences", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "token_ids",
                "past_lens",
                "subsequence_begins",
                "block_indices",
                "block_indices_begins",
                "row_indices",
                "states",
                "embedded",
                "turned",
                "added",
            )
        ),
        ("added_layers", ctypes.c_int32),
        ("adapters", ctypes.c_void_p),
        ("window_indices", ctypes.c_void_p),
        ("logit_rows", ctypes.c_void_p),
        ("logits", ctypes.c_int32),
        ("before_norm", ctypes.c_int32),
        ("taps", ctypes.c_int32),
        ("tap_layers", ctypes.c_void_p),
        ("tapped", ctypes.c_void_p),
        ("beside", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """Return the library, opened.

    :raises ModelNotLoadable: it is missing, or has another version.
    """
    try:
        found = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise ModelNotLoadable(f"the native backend's library cannot be opened: {error}") from error
    if found.pn_abi() != ABI:
        raise ModelNotLoadable(f"{PATH}: version {found.pn_abi()}, {ABI} is needed")
    found.pn_last_error.restype = ctypes.c_char_p
    for name in ("pn_packed_bytes", "pn_cache_block_bytes", "pn_state_bytes"):
        getattr(found, name).restype = ctypes.c_int64
    found.pn_peak.restype = ctypes.c_double
    return found


def best_isa() -> Isa | None:
    """Return the best instruction set that this CPU has; None if it has none of them."""
    found = int(library().pn_best_isa())
    return Isa(found) if found else None


def peak_products_s(isa: Isa) -> float:
    """Return the peak products a second of one thread, from registers; 0 if this CPU lacks `isa`."""
    return float(library().pn_peak(int(isa)))


def address_of(array: NDArray[Any], kind: type[np.generic]) -> int:
    """:raises ValueError: it is of another type, or in pieces."""
    if array.dtype != kind or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype} instead of {kind.__name__}, or not contiguous")
    return array.ctypes.data


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """Return the address of an array of any type."""
    return ctypes.c_void_p(array.ctypes.data)


def element_of(array: NDArray[Any]) -> int:
    """Return the library's number of an array's type; 16-bit integers are bf16.

    :raises ValueError: it has none.
    """
    element = {"float32": 0, "float16": 1, "int16": 2, "uint16": 2}.get(array.dtype.name)
    if element is None:
        raise ValueError(f"weights of {array.dtype}")
    return element


def check(code: int) -> None:
    """:raises ValueError: a bad argument. :raises MemoryError: and so on."""
    if code == 0:
        return
    raise {1: ValueError, 3: MemoryError}.get(code, RuntimeError)(last_error())


def last_error() -> str:
    """Return the error of this thread's last failed call."""
    return str(library().pn_last_error().decode())
