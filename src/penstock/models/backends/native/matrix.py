"""Matrices in the native library's form."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.models.backends.native.library import check, last_error, library, pointer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Kind(enum.IntEnum):
    """How a matrix is held: quantised, or as fp16, bf16 or fp32."""

    I4 = 1
    I8 = 2
    Z4 = 3
    Z8 = 4
    A4 = 5
    A8 = 6
    F16 = 7
    BF16 = 8
    F32 = 9
    K4 = 10
    K5 = 11
    K6 = 12

    @property
    def is_plain(self) -> bool:
        """Whether its values are not quantised."""
        return Kind.F16 <= self <= Kind.F32

    @property
    def is_nested(self) -> bool:
        """Whether its groups' scales are whole numbers times those of 256 columns, as GGUF has them."""
        return self >= Kind.K4


SUPERBLOCK: Final = 256
LEVEL_BYTES: Final = {Kind.K4: 20, Kind.K5: 20, Kind.K6: 18}
"""Of the scales of 256 columns of a row."""


class Layout(enum.IntEnum):
    """The order of a fused matrix's parts: q, k, v one after another; rows of gate and up alternating."""

    STACKED = 0
    PAIRED = 1


class _Packing(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("kind", "layout", "rows", "columns", "group", "tail_kind", "tail_rows")
    )


class _Part(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int32),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Packing:
    """A packed matrix's format: `rows` counts all its parts, `group` columns share a scale.

    The last `tail_rows` are of `tail_kind`, if there are some.
    """

    kind: Kind
    layout: Layout
    rows: int
    columns: int
    group: int
    tail_kind: Kind | None = None
    tail_rows: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix that goes into a packed one; see the header for types and shapes.

    What is not quantised has no scales; 16-bit integers are bf16.
    """

    values: NDArray[Any]
    scales: NDArray[Any] | None = None


def packed_version() -> int:
    """Return the version of the packed format."""
    return int(library().pn_packed_version())


def packed_bytes(packing: Packing) -> int:
    """:raises ValueError: the packing makes no sense."""
    found = int(library().pn_packed_bytes(ctypes.byref(native_packing(packing))))
    if found < 0:
        raise ValueError(last_error())
    return found


def pack(packing: Packing, parts: Sequence[Part], packed: NDArray[np.uint8]) -> None:
    """Write `parts` to `packed`, which is aligned to `ALIGNMENT`.

    :raises ValueError: they are inconsistent.
    """
    if packed.nbytes != packed_bytes(packing):
        raise ValueError(f"{packed.nbytes} bytes for a matrix of {packed_bytes(packing)}")
    entries = (_Part * len(parts))()
    kept: list[NDArray[Any]] = []
    before = 0
    for entry, part in zip(entries, parts, strict=True):
        values = np.ascontiguousarray(part.values)
        entry.rows, entry.values = len(values), values.ctypes.data
        kept.append(values)
        if packing.kind.is_plain:
            _check_plain(packing, values)
            continue
        scales = np.ascontiguousarray(part.scales)
        tail = packing.tail_kind is not None and before >= packing.rows - packing.tail_rows
        _check_part(packing, packing.tail_kind if tail else packing.kind, values, scales)
        before += len(values)
        kept.append(scales)
        entry.scales = scales.ctypes.data
    check(
        library().pn_pack(
            ctypes.byref(native_packing(packing)), entries, len(parts), pointer(packed)
        )
    )


def native_packing(packing: Packing) -> _Packing:
    """The library's own structure."""
    return _Packing(
        int(packing.kind), int(packing.layout), packing.rows, packing.columns, packing.group,
        int(packing.tail_kind or 0), packing.tail_rows,
    )  # fmt: skip


def _check_plain(packing: Packing, values: NDArray[Any]) -> None:
    width = 4 if packing.kind is Kind.F32 else 2
    if values.nbytes != len(values) * packing.columns * width:
        raise ValueError(f"values {values.shape} of {values.dtype} are not {packing}")


def _check_part(
    packing: Packing, kind: Kind | None, values: NDArray[Any], scales: NDArray[Any]
) -> None:
    groups = len(values) * packing.columns // packing.group
    if kind is not None and kind.is_nested:
        each = 2 if kind is Kind.K4 else 1
        fits = values.nbytes == len(values) * packing.columns // each and scales.dtype == np.uint8
        count = len(values) * packing.columns // SUPERBLOCK * LEVEL_BYTES[kind]
    elif kind not in {Kind.I4, Kind.I8}:
        wide = kind in {Kind.A4, Kind.A8}
        each = 1 if kind in {Kind.Z8, Kind.A8} else 2
        fits = values.nbytes == len(values) * packing.columns // each
        fits = fits and scales.dtype == (np.float32 if wide else np.float16)
        count = 2 * groups
    elif kind is Kind.I4:
        fits = values.nbytes == len(values) * packing.columns // 2 and scales.dtype == np.float16
        count = groups
    else:
        fits = values.nbytes == len(values) * packing.columns and scales.dtype == np.float32
        count = len(values)
    if not fits or scales.size != count:
        raise ValueError(f"values {values.shape} and scales {scales.shape} are not {packing}")
