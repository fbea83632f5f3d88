"""Paged attention over a KV cache in torch tensors, computed by torch's own threads."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native.library import (
    Isa,
    StepInput,
    address_of,
    best_isa,
    check,
    library,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ELEMENTS: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SIXTEEN: Final = 16
_MOST: Final = 512


class _Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        *((f"{of}_stride", ctypes.c_int64) for of in ("block", "head", "slot")),
        *(
            (name, ctypes.c_int32)
            for name in (
                "element",
                "blocks",
                "block_size",
                "heads",
                "kv_heads",
                "head_size",
                "window",
            )
        ),
        ("scale", ctypes.c_float),
    )


class _Rotation(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "cosines", "sines")),
        ("positions", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's attention.

    `keys` and `values` are (blocks, kv_heads, block_size, head_size) of equal strides, the last 1;
    `window` 0 is full attention, `scale` that of the scores.
    """

    keys: torch.Tensor
    values: torch.Tensor
    heads: int
    window: int
    scale: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """`cosines` and `sines` (positions, head_size / 2) float32; norms (head_size,) or None."""

    cosines: torch.Tensor
    sines: torch.Tensor
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    epsilon: float = 0.0


def is_available() -> bool:
    """Return whether the library exists, this CPU has kernels, and torch has threads that run them."""
    try:
        return best_isa() is not None and torch_threads() is not None
    except ModelNotLoadable:
        return False


def fits(head_size: int) -> bool:
    """Return whether there are kernels for heads of this size."""
    return head_size % _SIXTEEN == 0 and 0 < head_size <= _MOST


class Attention:
    """The attention of one model's steps. Owned by the engine's thread."""

    def __init__(self, isa: Isa = Isa.BEST) -> None:
        """:raises RuntimeError: this CPU lacks `isa`.

        :raises ModelNotLoadable: the library is missing.
        """
        self._library = library()
        self._attention = ctypes.c_void_p()
        self._tokens = 0
        check(
            self._library.pn_attention_create(
                int(isa), ctypes.c_void_p(torch_threads()), ctypes.byref(self._attention)
            )
        )

    def __del__(self) -> None:
        if getattr(self, "_attention", None):
            self._library.pn_attention_destroy(self._attention)

    def begin(
        self,
        *,
        past_lens: NDArray[np.int32],
        subsequence_begins: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        block_indices_begins: NDArray[np.int32],
        block_size: int,
    ) -> None:
        """Set the step for the following calls: its sequences, in the form of `paging.Step`.

        :raises ValueError: they are inconsistent.
        :raises MemoryError: there is no memory for the step.
        """
        step = StepInput(
            int(subsequence_begins[-1]),
            len(past_lens),
            0,
            None,
            address_of(past_lens, np.int32),
            address_of(subsequence_begins, np.int32),
            address_of(block_indices, np.int32),
            address_of(block_indices_begins, np.int32),
            None,
        )
        check(self._library.pn_attention_begin(self._attention, ctypes.byref(step), block_size))
        self._tokens = step.tokens

    def rotate(self, qkv: torch.Tensor, layer: Layer, rotation: Rotation) -> None:
        """Norm and rotate queries and keys of (T, heads + 2 kv_heads, size) in place; fill the cache.

        :raises ValueError: a position is past the tables, a block outside the cache, or a tensor of
            another size, type or layout.
        """
        heads = layer.heads + 2 * layer.keys.shape[1]
        size = layer.keys.shape[3]
        if qkv.numel() != self._tokens * heads * size or not qkv.is_contiguous():
            raise ValueError(f"{tuple(qkv.shape)} for {self._tokens} tokens of {heads} heads")
        _check_rotation(rotation, size, layer.keys.dtype)
        turning = _Rotation(
            _address(rotation.query_norm),
            _address(rotation.key_norm),
            rotation.cosines.data_ptr(),
            rotation.sines.data_ptr(),
            len(rotation.cosines),
            rotation.epsilon,
        )
        check(
            self._library.pn_attention_rotate(
                self._attention,
                ctypes.byref(_cache_of(layer)),
                ctypes.byref(turning),
                ctypes.c_void_p(qkv.data_ptr()),
                torch.get_num_threads(),
            )
        )

    def attend(self, queries: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Attend with (T, heads, size), of any strides but the last -> the same, contiguous.

        :raises ValueError: a block is outside the cache, or a tensor of another size, type or layout.
        :raises MemoryError: there is no memory for the step.
        """
        if queries.shape != (self._tokens, layer.heads, layer.keys.shape[3]):
            raise ValueError(f"queries {tuple(queries.shape)} for {self._tokens} tokens")
        if queries.dtype != layer.keys.dtype or queries.stride(2) != 1:
            raise ValueError(f"queries of {queries.dtype}, or not dense")
        out = torch.empty(queries.shape, dtype=queries.dtype)
        token_stride, head_stride, _ = queries.stride()
        check(
            self._library.pn_attention_attend(
                self._attention,
                ctypes.byref(_cache_of(layer)),
                ctypes.c_void_p(queries.data_ptr()),
                ctypes.c_int64(token_stride),
                ctypes.c_int64(head_stride),
                ctypes.c_void_p(out.data_ptr()),
                torch.get_num_threads(),
            )
        )
        return out


def _cache_of(layer: Layer) -> _Cache:
    keys, values = layer.keys, layer.values
    if values.stride() != keys.stride() or values.dtype != keys.dtype or keys.stride(3) != 1:
        raise ValueError("keys and values of different types or strides")
    blocks, kv_heads, block_size, head_size = keys.shape
    block, head, slot, _ = keys.stride()
    return _Cache(
        keys.data_ptr(),
        values.data_ptr(),
        block,
        head,
        slot,
        ELEMENTS[keys.dtype],
        blocks,
        block_size,
        layer.heads,
        kv_heads,
        head_size,
        layer.window,
        layer.scale,
    )


def _check_rotation(rotation: Rotation, size: int, dtype: torch.dtype) -> None:
    for table in (rotation.cosines, rotation.sines):
        if table.dtype != torch.float32 or table.shape[1:] != (size // 2,):
            raise ValueError(f"rotary tables {tuple(table.shape)} of {table.dtype}")
        if not table.is_contiguous():
            raise ValueError("rotary tables in pieces")
    for norm in (rotation.query_norm, rotation.key_norm):
        if norm is not None and (norm.dtype != dtype or norm.shape != (size,)):
            raise ValueError(f"a norm {tuple(norm.shape)} of {norm.dtype}")


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@cache
def torch_threads() -> int | None:
    """Return the address of `GOMP_parallel` in torch's OpenMP; None if torch uses another OpenMP.

    It is looked up as the dynamic linker does for torch: preloaded libraries come first. LLVM's and
    Intel's OpenMP have the function too.
    """
    own = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for name in (None, str(own)):
        try:
            found = ctypes.CDLL(name).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(found, ctypes.c_void_p).value
    return None
