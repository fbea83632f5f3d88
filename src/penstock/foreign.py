"""JSON and small files from elsewhere: nothing in them can hang, exhaust or crash a process."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import pydantic_core

if TYPE_CHECKING:
    from pathlib import Path

JSON_NESTING: Final = 200
"""Most nested levels in any JSON; pydantic-core's own limit."""
JSON_DIGITS: Final = 4_300
"""Most digits of a whole number in JSON; pydantic-core's own limit, and Python's."""
SMALL_FILE_BYTES: Final = 32 * 1024 * 1024
"""Of a configuration file. A tokenizer's vocabulary is read by its library and may be larger."""


class TooDeep(ValueError):
    """JSON whose objects and arrays are nested deeper than `JSON_NESTING`."""


def parse_json(text: str | bytes | bytearray, *, infinities: bool = False) -> Any:
    """Return the value of a JSON text.

    Lone surrogates are refused; `NaN` and `Infinity` are accepted only with `infinities`.

    :raises TooDeep: it is nested deeper than `JSON_NESTING`.
    :raises ValueError: it is not JSON; the message is one line.
    """
    try:
        content = text.encode() if isinstance(text, str) else text
        value: Any = pydantic_core.from_json(content, allow_inf_nan=infinities)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise TooDeep(f"nested deeper than {JSON_NESTING} levels") from None
        raise ValueError(f"not valid JSON: {error}") from None
    return value


def dump_json(value: Any) -> bytes:
    """Return JSON that `parse_json` would accept; whole numbers may have any size.

    :raises ValueError: the value cannot be written as JSON.
    """
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from error


def read_file(path: Path, most_bytes: int = SMALL_FILE_BYTES) -> bytes:
    """Return a small regular file's content; never waits for a pipe or a device.

    :raises OSError: it is unreadable, not a regular file, or larger than `most_bytes`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path}: not a regular file")
    with os.fdopen(handle, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"{path}: larger than {most_bytes} bytes")
    return content


def read_text(path: Path, most_bytes: int = SMALL_FILE_BYTES) -> str:
    """Return a small file's text, in UTF-8.

    :raises OSError: as `read_file`.
    :raises UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path, most_bytes).decode("utf-8")
