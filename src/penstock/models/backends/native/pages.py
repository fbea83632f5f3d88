"""Weights, and the KV cache, in large pages.

One token reads all weights once, and its context, from memory. In pages of 4 KiB, as a mapped file has them, that
waits for the page tables: on a virtual machine two threads read 35 GB/s so, 51 in pages of 2 MiB.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LARGE = 2 << 20


def available(kernel: Path = _KERNEL) -> bool:
    """Return whether the kernel grants large pages on request."""
    try:
        return "[never]" not in kernel.read_text()
    except OSError:
        return False


def zeros(size: int) -> NDArray[np.uint8]:
    """Return bytes in large pages, aligned to 2 MiB; pages that are never written take no memory.

    :raises MemoryError: there is not enough memory.
    """
    try:
        # Shared memory, which is mmap's default, has large pages on few systems only.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, size + _LARGE, flags=private)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no room for {size} bytes") from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _LARGE
    return whole[start : start + size]


def copied(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a private copy in large pages.

    :raises MemoryError: there is not enough memory.
    """
    copy = zeros(packed.nbytes)
    copy[:] = packed.reshape(-1)
    return copy
