"""Messages of rank 0 to the others, as plain integers, and their answers, as JSON.

A message is `[operation, count, count integers]`, all int32; it goes over a Unix socket that the
two processes alone have. A JSON frame is its length, as one int32, and its bytes.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from penstock.models.backends.lean.graphs.step_rows import FIELDS, Chunk, Packed

if TYPE_CHECKING:
    import socket

    from numpy.typing import NDArray

_INT = np.dtype(np.int32)
_ALL = -1
"""In the place of a number of rows: all of them, in order."""


class Operation(IntEnum):
    """The operations that rank 0 requests."""

    JOIN = 1
    ALLOCATE = 2
    CAPTURE = 3
    NOTE = 4
    COMPUTE = 5
    LAUNCH = 6
    FREE_BYTES = 8
    LEAVE = 9


class Answer(msgspec.Struct, frozen=True):
    """A rank's answer to operations that have one; `lack`: memory ran out."""

    value: int = 0
    error: str = ""
    lack: bool = False


def message(operation: Operation, *parts: Any) -> bytes:
    """A message of whole numbers and of arrays of them."""
    body = [np.asarray(part, _INT).reshape(-1) for part in parts]
    head = np.array([operation, sum(len(part) for part in body)], _INT)
    return np.concatenate([head, *body]).tobytes()


def receive(line: socket.socket) -> tuple[Operation, NDArray[np.int32]]:
    """The next message.

    :raises EOFError: the other side has gone.
    """
    operation, count = np.frombuffer(_exactly(line, 2 * _INT.itemsize), _INT)
    body = np.frombuffer(_exactly(line, int(count) * _INT.itemsize), _INT)
    return Operation(int(operation)), body


def compute_message(packed: Packed, *, hidden: bool) -> bytes:
    """A step, for `computed`."""
    rows = packed.logit_rows
    chunks = [(one.first, one.count, one.start, one.row) for one in packed.chunks]
    head = (
        int(hidden),
        packed.fields.shape[1],
        packed.decodes,
        len(chunks),
        _ALL if rows is None else len(rows),
    )
    return message(Operation.COMPUTE, head, packed.fields, chunks, rows or [])


def computed(body: NDArray[np.int32]) -> tuple[Packed, bool]:
    """The step of a message, and whether hidden states are wanted."""
    hidden, total, decodes, count, wanted = body[:5].tolist()
    fields, rest = body[5 : 5 + FIELDS * total], body[5 + FIELDS * total :]
    chunks = tuple(Chunk(*row) for row in rest[: 4 * count].reshape(count, 4).tolist())
    rows = None if wanted == _ALL else rest[4 * count :].tolist()
    return Packed(fields.reshape(FIELDS, total), decodes, chunks, rows), bool(hidden)


def send_json(line: socket.socket, value: Any) -> None:
    """Send a frame."""
    data = msgspec.json.encode(value, enc_hook=str)
    line.sendall(np.array([len(data)], _INT).tobytes() + data)


def receive_json(line: socket.socket, kind: type[Any]) -> Any:
    """The next frame.

    :raises EOFError: the other side has gone.
    """
    (size,) = np.frombuffer(_exactly(line, _INT.itemsize), _INT)
    return msgspec.json.decode(_exactly(line, int(size)), type=kind, dec_hook=_path)


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{kind} of {value!r}")


def _exactly(line: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        got = line.recv_into(view[done:])
        if not got:
            raise EOFError("the other side has gone")
        done += got
    return data
