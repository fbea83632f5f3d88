"""Weights in large pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock.models.native import pages

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [1, 4096, (5 << 20) + 17])
def test_a_copy_holds_the_same_bytes_where_large_pages_begin(size: int) -> None:
    original = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    copy = pages.copied(original)
    assert np.array_equal(copy, original)
    assert copy.ctypes.data % (2 << 20) == 0


def test_the_kernel_is_asked_whether_it_gives_them(tmp_path: Path) -> None:
    enabled = tmp_path / "enabled"
    assert not pages.available(enabled)
    enabled.write_text("always madvise [never]\n")
    assert not pages.available(enabled)
    enabled.write_text("always [madvise] never\n")
    assert pages.available(enabled)
