"""Checks that a model's folder contains plain readable files, before any library opens one."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from penstock.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER_FILES: Final = 10_000
"""Most files of a model's folder, including subfolders."""
FOLDER_LEVELS: Final = 4
TEXT_FILE_BYTES: Final = 256 * 1024 * 1024
"""Limit of a file that libraries read entirely as text: configurations, tokenizers, templates."""
_TEXT: Final = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for a name that no file system accepts."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_files(path: Path) -> None:
    """Check a model's files without opening any.

    :raises ModelNotFound: there is a pipe, socket or device, a text file is too large, there are
        too many files, or one cannot be examined.
    """
    count = 0
    try:
        for file in _files(path, FOLDER_LEVELS):
            count += 1
            if count > FOLDER_FILES:
                raise ModelNotFound(f"{path}: more than {FOLDER_FILES} files: not a model's folder")
            try:
                status = file.stat()
            except FileNotFoundError:  # a dangling link
                continue
            if not stat.S_ISREG(status.st_mode):
                raise ModelNotFound(
                    f"{file.path}: not a regular file: it cannot be part of a model"
                )
            if status.st_size > TEXT_FILE_BYTES and file.name.endswith(_TEXT):
                raise ModelNotFound(f"{file.path}: larger than {TEXT_FILE_BYTES} bytes")
    except OSError as error:
        raise ModelNotFound(f"{path}: {error}") from error


def _files(path: Path | str, levels: int) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder that is not itself a folder."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                if levels > 1:
                    yield from _files(entry.path, levels - 1)
            else:
                yield entry
