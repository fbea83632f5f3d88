"""Quantised weights in a file: made once, mapped by every worker that loads the model.

A file contains arrays at multiples of 64 bytes, then an index in JSON, the index's length and a
magic mark. It gets its name only when it is complete and on disk, so a file with that name can be
trusted; the name is a digest of the checkpoint's files and of the format.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.weights.matrices import Kept, Matrix, Packed, wrong_shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format

_MARK = b"PENSTOCK-WEIGHTS-1"
_TAIL_BYTES = 8 + len(_MARK)
_ALIGNMENT = 64


class Converting:
    """A checkpoint whose matrices are written to a file on request, and mapped from there."""

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        self._checkpoint = checkpoint
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._index: dict[str, dict[str, Any]] = {}

    @property
    def parameters(self) -> int:
        """The number of weights requested so far, counting shared ones once."""
        return self._checkpoint.parameters

    @property
    def kept(self) -> Kept:
        """See `Weights.kept`."""
        return self._checkpoint.kept

    def has(self, name: str) -> bool:
        """Return whether the checkpoint has a tensor of this name."""
        return self._checkpoint.has(name)

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a norm's weight or a bias."""
        vector = self._checkpoint.vector(name)
        self._index[f"vector {name}"] = self._write(vector)
        return vector

    def embeddings(self, name: str) -> Matrix:
        """Return an embedding table, in the checkpoint's own type."""
        return self._keep(f"embeddings {name}", self._checkpoint.embeddings(name))

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """See `Checkpoint.matrix`."""
        return self._keep(f"matrix {name}", self._checkpoint.matrix(name, shape, form))

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """See `Checkpoint.packed`."""
        made = make(self._checkpoint)
        entry = {"facts": made.facts, "values": self._write(made.values)}
        self._index[f"packed {key}"] = entry
        self._file.flush()
        return Packed(made.facts, self._map(entry["values"]))

    def finish(self) -> None:
        """Write the index, and flush everything to the disk.

        :raises OSError: the disk is full, or fails.
        """
        facts = {"parameters": self.parameters, "kept": asdict(self.kept), "arrays": self._index}
        index = json.dumps(facts).encode()
        self._file.write(index + len(index).to_bytes(8, "little") + _MARK)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()

    def close(self) -> None:
        """Close the file, complete or not."""
        self._file.close()

    def _keep(self, key: str, matrix: Matrix) -> Matrix:
        entry: dict[str, Any] = {
            "kind": matrix.kind,
            "rows": matrix.rows,
            "columns": matrix.columns,
            "values": self._write(matrix.values),
        }
        if matrix.scales is not None:
            entry["scales"] = self._write(matrix.scales)
        self._index[key] = entry
        self._file.flush()
        return _matrix(entry, self._map)

    def _map(self, entry: dict[str, Any]) -> NDArray[Any]:
        shape = tuple(entry["shape"])
        return np.memmap(self._path, entry["type"], "r", entry["offset"], shape)

    def _write(self, array: NDArray[Any]) -> dict[str, Any]:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        entry = {
            "offset": self._file.tell(),
            "type": array.dtype.str,
            "shape": list(array.shape),
        }
        self._file.write(np.ascontiguousarray(array).data)
        return entry


class Converted:
    """A file that `Converting` wrote, mapped; it has the same interface as a `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        """:raises OSError: there is no such file.

        :raises ValueError: it is not complete.
        """
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < _TAIL_BYTES or self._map[-len(_MARK) :] != _MARK:
            raise ValueError(f"{path}: not a complete file of converted weights")
        end = len(self._map) - _TAIL_BYTES
        size = int.from_bytes(self._map[end : end + 8], "little")
        index: dict[str, Any] = json.loads(self._map[max(0, end - size) : end])
        self.path = path
        self.parameters: int = index["parameters"]
        kept: dict[str, Any] = index.get("kept") or asdict(Kept())
        self.kept = Kept(kept["label"], tuple(kept["others"]), kept["error"])
        self._index: dict[str, dict[str, Any]] = index["arrays"]
        self._names = {key.partition(" ")[2] for key in self._index}

    def has(self, name: str) -> bool:
        """Return whether the checkpoint had a tensor of this name that was requested."""
        return name in self._names

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a norm's weight or a bias."""
        return self._array(self._entry("vector", name))

    def embeddings(self, name: str) -> Matrix:
        """Return an embedding table, in the checkpoint's own type."""
        return _matrix(self._entry("embeddings", name), self._array)

    def matrix(self, name: str, shape: tuple[int, int], form: Format) -> Matrix:
        """Return a linear layer's weight. The file has a single format, the one in its name.

        :raises ModelNotLoadable: its shape is not `shape`.
        """
        del form
        entry = self._entry("matrix", name)
        found_shape = (entry["rows"], entry["columns"])
        if found_shape != shape:
            raise wrong_shape(self.path, name, found_shape, shape)
        return _matrix(entry, self._array)

    def packed(self, key: str, make: Callable[[Checkpoint], Packed]) -> Packed:
        """See `Checkpoint.packed`."""
        del make
        entry = self._entry("packed", key)
        return Packed(entry["facts"], self._array(entry["values"]))

    def drop_pages(self) -> None:
        """Release the memory of pages that were read; they are read again when used."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _entry(self, kind: str, name: str) -> dict[str, Any]:
        entry = self._index.get(f"{kind} {name}")
        if entry is None:
            raise ModelNotLoadable(f"{self.path}: the converted checkpoint lacks {name}")
        return entry

    def _array(self, entry: dict[str, Any]) -> NDArray[Any]:
        kind, shape = np.dtype(entry["type"]), tuple(entry["shape"])
        flat = np.frombuffer(self._map, kind, int(np.prod(shape)), entry["offset"])
        return flat.reshape(shape)


def _matrix(entry: dict[str, Any], array: Callable[[dict[str, Any]], NDArray[Any]]) -> Matrix:
    scales = array(entry["scales"]) if "scales" in entry else None
    return Matrix(entry["kind"], entry["rows"], entry["columns"], array(entry["values"]), scales)
