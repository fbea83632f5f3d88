"""Memory that is not needed any more, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def collect() -> None:
    """Free what refers to itself and to nothing else, and return it to the system.

    What was frozen (`gc.freeze`) is not looked at, so this takes milliseconds in a worker.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Return freed memory to the system, if the C library can."""
    if sys.platform != "linux":
        return
    give_back: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
