"""Weights in large pages."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from penstock.models.backends.native import pages


@pytest.mark.parametrize("size", [1, 4096, (5 << 20) + 17])
def test_a_copy_holds_the_same_bytes_where_large_pages_begin(size: int) -> None:
    original = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    copy = pages.copied(original)
    assert np.array_equal(copy, original)
    assert copy.ctypes.data % (2 << 20) == 0


def test_more_than_there_is_is_a_memory_error() -> None:
    for size in (1 << 62, 1 << 70):
        with pytest.raises(MemoryError, match="no room"):
            pages.zeros(size)


@pytest.mark.skipif(not pages.available(), reason="this kernel gives no large pages")
def test_the_kernel_may_give_a_copy_large_pages() -> None:
    copy = pages.copied(np.zeros(8 << 20, np.uint8))
    flags: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds is not None:
            inside = int(bounds[1], 16) <= copy.ctypes.data < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line.split()[1:]
    assert "hg" in flags  # asked for
    assert "sh" not in flags  # and not shared, where few systems have them


def test_the_kernel_is_asked_whether_it_gives_them(tmp_path: Path) -> None:
    enabled = tmp_path / "enabled"
    assert not pages.available(enabled)
    enabled.write_text("always madvise [never]\n")
    assert not pages.available(enabled)
    enabled.write_text("always [madvise] never\n")
    assert pages.available(enabled)
