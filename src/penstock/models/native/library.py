"""The border to `libpenstock_native.so`, by ctypes. `kernels/penstock_native.h` says what each does.

The library is opened at the first use; ctypes lets other threads run while it computes.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PATH = Path(__file__).with_name("libpenstock_native.so")
ABI = 2
ALIGNMENT = 64
"""Bytes: where packed matrices and the KV cache begin."""


class Isa(enum.IntEnum):
    """Instruction sets with kernels of their own."""

    BEST = 0
    AVX2 = 1
    AVX_VNNI = 2
    AVX512_VNNI = 3


class Kind(enum.IntEnum):
    """How a matrix is quantised."""

    I4 = 1
    I8 = 2


class Layout(enum.IntEnum):
    """How the parts of a fused matrix lie: q, k, v one after another; rows of gate, up in turn."""

    STACKED = 0
    PAIRED = 1


class Which(enum.IntEnum):
    """A matrix's place in a layer; `HEAD` belongs to none."""

    QKV = 0
    OUTPUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4


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
    )


class _Packing(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int32) for name in ("kind", "layout", "rows", "columns", "group")
    )


class _Part(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int32),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    )


class _Step(ctypes.Structure):
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
            )
        ),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, in elements. `sliding_windows` is one entry a layer, 0 for full attention."""

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


@dataclass(frozen=True, slots=True)
class Packing:
    """What a packed matrix holds: `rows` counts all its parts, `group` columns share a scale."""

    kind: Kind
    layout: Layout
    rows: int
    columns: int
    group: int


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix that goes into a packed one; see `Kind` in the header for types and shapes."""

    values: NDArray[Any]
    scales: NDArray[Any]


@cache
def library() -> ctypes.CDLL:
    """The library, opened.

    :raises ModelNotLoadable: it is not there, or of another version.
    """
    try:
        found = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise ModelNotLoadable(f"the native backend's library cannot be opened: {error}") from error
    if found.pn_abi() != ABI:
        raise ModelNotLoadable(f"{PATH}: version {found.pn_abi()}, {ABI} is needed")
    found.pn_last_error.restype = ctypes.c_char_p
    for name in ("pn_packed_bytes", "pn_cache_block_bytes"):
        getattr(found, name).restype = ctypes.c_int64
    found.pn_peak.restype = ctypes.c_double
    return found


def best_isa() -> Isa | None:
    """The best instruction set that this CPU has; None where it has none of them."""
    found = int(library().pn_best_isa())
    return Isa(found) if found else None


def peak_products_s(isa: Isa) -> float:
    """What one thread can issue from registers alone, a second; 0 where this CPU lacks `isa`."""
    return float(library().pn_peak(int(isa)))


def packed_version() -> int:
    """Changes with the meaning of packed bytes."""
    return int(library().pn_packed_version())


def packed_bytes(packing: Packing) -> int:
    """:raises ValueError: the packing makes no sense."""
    found = int(library().pn_packed_bytes(ctypes.byref(_packing(packing))))
    if found < 0:
        raise ValueError(_last_error())
    return found


def pack(packing: Packing, parts: Sequence[Part], packed: NDArray[np.uint8]) -> None:
    """Write `parts` to `packed`, which lies at a multiple of `ALIGNMENT`.

    :raises ValueError: something does not fit together.
    """
    if packed.nbytes != packed_bytes(packing):
        raise ValueError(f"{packed.nbytes} bytes for a matrix of {packed_bytes(packing)}")
    entries = (_Part * len(parts))()
    kept: list[NDArray[Any]] = []
    for entry, part in zip(entries, parts, strict=True):
        values = np.ascontiguousarray(part.values)
        scales = np.ascontiguousarray(part.scales)
        _check_part(packing, values, scales)
        kept += [values, scales]
        entry.rows = len(values)
        entry.values, entry.scales = values.ctypes.data, scales.ctypes.data
    _check(
        library().pn_pack(ctypes.byref(_packing(packing)), entries, len(parts), _address(packed))
    )


def cache_block_bytes(shape: Shape) -> int:
    """Bytes of one block of the KV cache, all layers.

    :raises ValueError: the shape makes no sense.
    """
    native, _windows = _shape(shape)
    found = int(library().pn_cache_block_bytes(ctypes.byref(native)))
    if found < 0:
        raise ValueError(_last_error())
    return found


class Decoder:
    """A model in the library. It keeps the arrays that the library points into."""

    def __init__(
        self,
        shape: Shape,
        threads: int,
        *,
        cpus: Sequence[int] | None = None,
        isa: Isa = Isa.BEST,
    ) -> None:
        """`cpus` has one entry a thread; the first is the caller's, which binds itself.

        :raises ValueError: the shape makes no sense.
        :raises RuntimeError: this CPU lacks `isa`.
        """
        self.shape = shape
        self._kept: dict[Any, NDArray[Any]] = {}
        self._model = ctypes.c_void_p()
        native, _windows = _shape(shape)
        if cpus is not None and len(cpus) != threads:
            raise ValueError(f"{len(cpus)} CPUs for {threads} threads")
        bound = None if cpus is None else np.array(cpus, np.int32)
        _check(
            library().pn_create(
                ctypes.byref(native),
                int(isa),
                threads,
                None if bound is None else _address(bound),
                ctypes.byref(self._model),
            )
        )

    def close(self) -> None:
        """Stop its threads and forget it; twice is once."""
        model, self._model = self._model, ctypes.c_void_p()
        if model:
            library().pn_destroy(model)
        self._kept.clear()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    def phases_s(self) -> dict[Phase, float]:
        """Seconds of all steps so far, by what they went into."""
        seconds = np.zeros(len(Phase))
        _check(library().pn_phases(self._model, _address(seconds)))
        return {phase: float(seconds[phase]) for phase in Phase}

    def set_matrix(
        self, which: Which, layer: int, packing: Packing, packed: NDArray[np.uint8]
    ) -> None:
        """:raises ValueError: it is not what the shape says, or not at a multiple of 64 bytes."""
        if packed.nbytes != packed_bytes(packing):
            raise ValueError(f"{packed.nbytes} bytes for a matrix of {packed_bytes(packing)}")
        packing_of = ctypes.byref(_packing(packing))
        _check(
            library().pn_set_matrix(self._model, int(which), layer, packing_of, _address(packed))
        )
        self._kept[which, layer] = packed

    def set_vector(self, which: Vector, layer: int, values: NDArray[np.float32]) -> None:
        """:raises ValueError: it is not as long as the shape says."""
        values = np.ascontiguousarray(values, np.float32).reshape(-1)
        _check(
            library().pn_set_vector(self._model, int(which), layer, _address(values), values.size)
        )
        self._kept["vector", which, layer] = values

    def set_embeddings(self, table: NDArray[Any]) -> None:
        """(vocab, hidden); 16-bit integers are bf16.

        :raises ValueError: another shape, or another type.
        """
        if table.shape != (self.shape.vocab, self.shape.hidden):
            raise ValueError(f"embeddings {table.shape}: not the shape's")
        element = {"float32": 0, "float16": 1, "int16": 2, "uint16": 2}.get(table.dtype.name)
        if element is None:
            raise ValueError(f"embeddings of {table.dtype}")
        table = np.ascontiguousarray(table)
        _check(library().pn_set_embeddings(self._model, element, _address(table)))
        self._kept["embeddings"] = table

    def set_rotary(self, cosines: NDArray[np.float32], sines: NDArray[np.float32]) -> None:
        """(positions, head_size) each, as `decoder.rotary_tables` gives them.

        :raises ValueError: another shape.
        """
        if cosines.shape != sines.shape or cosines.shape[1:] != (self.shape.head_size,):
            raise ValueError(f"rotary tables {cosines.shape}, {sines.shape}: not the shape's")
        tables = [np.ascontiguousarray(table, np.float32) for table in (cosines, sines)]
        _check(
            library().pn_set_rotary(
                self._model, _address(tables[0]), _address(tables[1]), len(cosines)
            )
        )
        self._kept["cosines"], self._kept["sines"] = tables

    def step(
        self,
        *,
        token_ids: NDArray[np.int64],
        past_lens: NDArray[np.int32],
        subsequence_begins: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        block_indices_begins: NDArray[np.int32],
        rows: NDArray[np.int32],
        cache: NDArray[np.uint8],
        hidden: NDArray[np.float32] | None = None,
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        """Compute a step; see `pn_step`. `cache` is (blocks, bytes).

        Outputs, (rows, vocab) and (rows, hidden), are written in place.

        :raises ValueError: an id, a position or a block that there is not.
        :raises MemoryError: no room for the step.
        """
        begins = (len(past_lens) + 1,)
        if subsequence_begins.shape != begins or block_indices_begins.shape != begins:
            raise ValueError("begins of another number of sequences")
        if block_indices_begins[-1] > len(block_indices):
            raise ValueError("fewer block indices than their begins say")
        for output, width in ((logits, self.shape.vocab), (hidden, self.shape.hidden)):
            if output is not None and output.shape != (len(rows), width):
                raise ValueError(f"an output of {output.shape} for {len(rows)} rows of {width}")
        native = _Step(
            len(token_ids),
            len(past_lens),
            len(rows),
            _array(token_ids, np.int64),
            _array(past_lens, np.int32),
            _array(subsequence_begins, np.int32),
            _array(block_indices, np.int32),
            _array(block_indices_begins, np.int32),
            _array(rows, np.int32),
        )
        _check(
            library().pn_step(
                self._model,
                ctypes.byref(native),
                _address(cache),
                len(cache),
                None if logits is None else ctypes.c_void_p(_array(logits, np.float32)),
                None if hidden is None else ctypes.c_void_p(_array(hidden, np.float32)),
            )
        )


def _check_part(packing: Packing, values: NDArray[Any], scales: NDArray[Any]) -> None:
    if packing.kind is Kind.I4:
        fits = values.nbytes == len(values) * packing.columns // 2 and scales.dtype == np.float16
        count = len(values) * packing.columns // packing.group
    else:
        fits = values.nbytes == len(values) * packing.columns and scales.dtype == np.float32
        count = len(values)
    if not fits or scales.size != count:
        raise ValueError(f"values {values.shape} and scales {scales.shape} are not {packing}")


def _packing(packing: Packing) -> _Packing:
    return _Packing(
        int(packing.kind), int(packing.layout), packing.rows, packing.columns, packing.group
    )


def _shape(shape: Shape) -> tuple[_Shape, NDArray[np.int32]]:
    """The structure, and what it points into."""
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
    )
    return native, windows


def _array(array: NDArray[Any], kind: type[np.generic]) -> int:
    if array.dtype != kind or not array.flags.c_contiguous:
        raise ValueError(f"{array.dtype} instead of {np.dtype(kind)}, or not contiguous")
    return array.ctypes.data


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _check(code: int) -> None:
    """:raises ValueError: a bad argument. :raises MemoryError: and so on."""
    if code == 0:
        return
    raise {1: ValueError, 3: MemoryError}.get(code, RuntimeError)(_last_error())


def _last_error() -> str:
    return str(library().pn_last_error().decode())
