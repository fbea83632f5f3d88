"""Weights in large pages.

One token reads all weights once, from memory. In pages of 4 KiB, as a mapped file has them, that
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
    """Whether the kernel gives large pages to who asks for them."""
    try:
        return "[never]" not in kernel.read_text()
    except OSError:
        return False


def copied(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A private copy in large pages, as many as fit whole; it begins at a multiple of 2 MiB.

    :raises MemoryError: there is no room.
    """
    try:
        # Shared memory, which is mmap's default, has large pages on few systems only.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, packed.nbytes + _LARGE, flags=private)
    except OSError as error:
        raise MemoryError(f"no room for {packed.nbytes} bytes of weights") from error
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _LARGE
    copy = whole[start : start + packed.nbytes]
    copy[:] = packed.reshape(-1)
    return copy
