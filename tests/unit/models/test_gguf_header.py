"""The header of a GGUF file: what it may hold, at each bound and just past it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from penstock.models.catalogue.gguf import header
from penstock.models.catalogue.gguf.header import BadGguf

if TYPE_CHECKING:
    from pathlib import Path

STRING, ARRAY, BYTE = 8, 9, 0


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def gguf(entries: list[bytes], tensors: list[bytes]) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    return start + b"".join(entries) + b"".join(tensors)


def word(number: int, content: bytes = b"x") -> bytes:
    return text(b"k%d" % number) + struct.pack("<I", STRING) + text(content)


def numbers(count: int) -> bytes:
    return text(b"list") + struct.pack("<IIQ", ARRAY, BYTE, count) + bytes(count)


def tensor(dimensions: int) -> bytes:
    shape = struct.pack("<I", dimensions) + struct.pack("<Q", 0) * dimensions
    return text(b"t") + shape + struct.pack("<IQ", 0, 0)


def parsed(path: Path, content: bytes) -> header.Header:
    path.write_bytes(content + bytes(64))
    return header.read(path)


def test_a_header_at_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    monkeypatch.setattr(header, "MOST_ENTRIES", 50)
    monkeypatch.setattr(header, "LONGEST_STRING", 1000)
    monkeypatch.setattr(header, "LONGEST_ARRAY", 1000)
    assert len(parsed(path, gguf([word(n) for n in range(50)], [])).metadata) == 50
    assert parsed(path, gguf([word(0, b"y" * 1000)], [])).metadata == {"k0": "y" * 1000}
    assert len(parsed(path, gguf([numbers(1000)], [])).metadata["list"]) == 1000
    assert parsed(path, gguf([], [tensor(header.MOST_DIMENSIONS)])).tensors["t"].size == 0
    for past, reason in (
        (gguf([word(n) for n in range(51)], []), "not read here"),
        (gguf([], [tensor(1)] * 51), "not read here"),
        (gguf([word(0, b"y" * 1001)], []), "a text of 1001 bytes"),
        (gguf([numbers(1001)], []), "a list of 1001 values"),
        (gguf([], [tensor(header.MOST_DIMENSIONS + 1)]), "5 dimensions"),
    ):
        with pytest.raises(BadGguf, match=reason):
            parsed(path, past)


def test_counts_that_the_file_does_not_hold_cost_nothing(tmp_path: Path) -> None:
    for claimed in (
        b"GGUF" + struct.pack("<IQQ", 3, 0, header.MOST_ENTRIES),
        gguf([text(b"k") + struct.pack("<IQ", STRING, header.LONGEST_STRING)], []),
        gguf([text(b"k") + struct.pack("<IIQ", ARRAY, BYTE, header.LONGEST_ARRAY)], []),
        gguf([text(b"k") + struct.pack("<IIQ", ARRAY, STRING, header.LONGEST_ARRAY)], []),
    ):
        with pytest.raises(BadGguf):
            parsed(tmp_path / "m.gguf", claimed)
