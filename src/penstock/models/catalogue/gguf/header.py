"""A GGUF file's metadata and its table of tensors."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
MOST_ENTRIES: Final = 100_000
LONGEST_STRING: Final = 8 * 1024 * 1024
LONGEST_ARRAY: Final = 16 * 1024 * 1024
MOST_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
_STRING: Final = 8
_ARRAY: Final = 9
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # fmt: skip

TYPES: Final = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""By ggml's number: a type's name, the weights of a block, and its bytes."""


class BadGguf(ValueError):
    """A file that is not GGUF, or is damaged; the message names the problem."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: sizes with the rows first, and its bytes from the file's beginning."""

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata, of arrays of strings their lengths alone, and tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Entry]


def read(path: Path) -> Header:
    """The header of a file.

    :raises BadGguf: it is damaged, or of a type that is unknown.
    :raises OSError: it cannot be read.
    """
    state = path.stat()
    return _read(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _read(path: Path, size: int, changed_ns: int) -> Header:
    del changed_ns
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as own:
            return _parsed(path, _Reader(own), size)
    except (struct.error, UnicodeDecodeError) as error:
        raise BadGguf(f"{path}: a GGUF file that is cut off or damaged") from error
    except ValueError as error:
        if isinstance(error, BadGguf) and str(path) in str(error):
            raise
        raise BadGguf(f"{path}: {error}") from error  # an empty file cannot be mapped


def _parsed(path: Path, reader: _Reader, size: int) -> Header:
    if reader.bytes(4) != _MAGIC:
        raise BadGguf(f"{path}: not a GGUF file")
    version, tensors, entries = reader.numbers("IQQ")
    if version not in _VERSIONS or max(tensors, entries) > MOST_ENTRIES:
        raise BadGguf(f"{path}: GGUF version {version} with {tensors} tensors: not read here")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.string()
        metadata[name] = reader.value(reader.numbers("I")[0])
    table: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(tensors):
        name = reader.string()
        (dimensions,) = reader.numbers("I")
        if dimensions > MOST_DIMENSIONS:
            raise BadGguf(f"{path}: {name} has {dimensions} dimensions")
        shape = tuple(reversed(reader.numbers("Q" * dimensions)))
        table.append((name, shape, *reader.numbers("IQ")))
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise BadGguf(f"{path}: an alignment of {alignment}")
    start = -(-reader.at // alignment) * alignment
    found = {
        name: _entry(path, name, shape, kind, start=start + offset, end=size)
        for name, shape, kind, offset in table
    }
    return Header(path, metadata, found)


def _entry(
    path: Path, name: str, shape: tuple[int, ...], kind: int, *, start: int, end: int
) -> Entry:
    if kind not in TYPES:
        raise BadGguf(f"{path}: {name} is of ggml's type {kind}, which is not read here")
    label, weights, block_bytes = TYPES[kind]
    if shape and shape[-1] % weights:
        raise BadGguf(f"{path}: {name}: {shape[-1]} columns are no whole blocks of {label}")
    size = math.prod(shape) // weights * block_bytes
    if start + size > end:
        raise BadGguf(f"{path}: a GGUF file that is cut off: {name} ends past its end")
    return Entry(shape, label, start, size)


class _Reader:
    """Reads values one after another from a position."""

    def __init__(self, own: mmap.mmap) -> None:
        self._own = own
        self.at = 0

    def bytes(self, count: int) -> bytes:
        found = self._own[self.at : self.at + count]
        if len(found) < count:
            raise BadGguf(f"cut off: {count} bytes at {self.at}")
        self.at += count
        return found

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{kinds}", self._own, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return found

    def string(self) -> str:
        (length,) = self.numbers("Q")
        if length > LONGEST_STRING:
            raise BadGguf(f"a text of {length} bytes")
        return self.bytes(length).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.numbers(_number(kind))[0]
        inner, count = self.numbers("IQ")
        if count > LONGEST_ARRAY:
            raise BadGguf(f"a list of {count} values")
        if inner != _STRING:
            return list(self.numbers(f"{count}{_number(inner)}"))
        for _ in range(count):
            (length,) = self.numbers("Q")
            self.at += length
        return count


def _number(kind: int) -> str:
    if kind not in _NUMBERS:
        raise BadGguf(f"a value of GGUF's type {kind}")
    return _NUMBERS[kind]
