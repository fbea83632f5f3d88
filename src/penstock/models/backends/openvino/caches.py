"""The KV cache of a compiled model: two tensors for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.openvino.runtime_library import openvino

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """One cache input: its name, type, and the shape of one block."""

    name: str
    kind: Any
    block_shape: tuple[int, ...]
    apart: bool

    @property
    def block_bytes(self) -> int:
        return int(np.prod(self.block_shape)) * int(self.kind.size)


class Caches:
    """Tensors in the shapes and types that the plugin chose for `key_cache.*`, `value_cache.*`."""

    def __init__(self, compiled: Any, device: str, apart: frozenset[int] = frozenset()) -> None:
        """Layers that are `apart` have blocks of their own, once `allocate_windows` was called."""
        self._device = device
        self._slots = tuple(_slots(compiled, apart))
        self._window_blocks: int | None = None
        self._arrays: list[NDArray[np.uint8]] = []
        self._tensors: list[Any] = []
        # A value's block is (heads, tokens, size) on every device; a key's is not.
        self.block_size = next(
            slot.block_shape[1] for slot in self._slots if slot.name.startswith("value")
        )
        self.bytes_per_block = sum(slot.block_bytes for slot in self._slots)
        self.window_bytes = sum(slot.block_bytes for slot in self._slots if slot.apart)

    def allocate_windows(self, blocks: int) -> None:
        """From the next `allocate` on, layers that are apart have so many blocks."""
        self._window_blocks = blocks

    def allocate(self, blocks: int, request: Any) -> None:
        """:raises MemoryError: the device has not enough memory."""
        library = openvino()
        for slot in self._slots:
            windows = self._window_blocks if slot.apart else None
            own = blocks if windows is None else windows
            shape = library.Shape([own, *slot.block_shape])
            if self._device == "CPU":
                array = _aligned(own, slot.block_bytes)
                self._arrays.append(array)
                tensor = library.Tensor(array.reshape(-1), shape, slot.kind)
            else:
                tensor = _on_device(self._device, slot.kind, shape)
            self._tensors.append(tensor)
            request.set_tensor(slot.name, tensor)


def _slots(compiled: Any, apart: frozenset[int]) -> list[_Slot]:
    found: list[_Slot] = []
    for port in compiled.inputs:
        name: str = port.any_name
        if name.startswith(("key_cache.", "value_cache.")):
            dimensions: list[Any] = list(port.partial_shape)
            shape = tuple(int(dimension.get_length()) for dimension in dimensions[1:])
            layer = int(name.rpartition(".")[2])
            found.append(_Slot(name, port.element_type, shape, layer in apart))
    return found


def _aligned(blocks: int, block_bytes: int) -> NDArray[np.uint8]:
    """Zeros, (blocks, block_bytes); pages that are never written take no memory."""
    size = blocks * block_bytes
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].reshape(blocks, block_bytes)


def _on_device(device: str, kind: Any, shape: Any) -> Any:
    try:
        return openvino().Core().get_default_context(device).create_tensor(kind, shape, {})
    except RuntimeError as error:
        raise MemoryError(str(error).strip().splitlines()[0]) from error
