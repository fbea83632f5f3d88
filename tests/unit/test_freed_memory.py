"""What refers to itself alone is freed; what the system gets back is the C library's affair."""

from __future__ import annotations

import gc
import weakref

from penstock import freed_memory


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_a_circle_is_freed_and_what_was_frozen_is_not_looked_at() -> None:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        frozen, later = Circle(), Circle()
        kept = weakref.ref(frozen)
        del later
        gc.collect()
        gc.freeze()
        del frozen
        fresh = weakref.ref(Circle())
        assert fresh() is not None
        freed_memory.collect()
        assert fresh() is None
        assert kept() is not None
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    gc.collect()
    assert kept() is None
