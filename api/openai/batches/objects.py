"""Where files and batches are kept: named pieces of bytes, of one folder or one bucket.

Names are of our own making and have slashes. All calls block: make them in a thread. Every method
raises `StoreUnavailable` if the storage does not answer, or takes no more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Final, Protocol, TypeVar

from penstock.errors import BodyTooLarge, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")

COPY_BYTES: Final = 1024 * 1024
STALE_S: Final = 86_400
READERS: Final = 8
"""Objects that are read at once: each is a round trip to a bucket."""
READ_AHEAD: Final = 64
"""Objects of a list that are in memory at once; there may be a hundred thousand."""


class Objects(Protocol):
    """Storage that all API processes share."""

    def put(self, name: str, content: bytes) -> None:
        """Store content whole, in the place of what was there."""
        ...

    def put_from(self, name: str, source: IO[bytes], most_bytes: int | None) -> int:
        """Store what `source` holds, and return how many bytes that is.

        It is read in parts. One that can be read only once, as our own output, has no limit.

        :raises BodyTooLarge: it is more than `most_bytes`; nothing is stored.
        """
        ...

    def append(self, name: str, content: bytes) -> None:
        """Add content to what is under this name, as a piece of its own or behind the others."""
        ...

    def get(self, name: str) -> bytes | None:
        """Return content; None if there is none of this name."""
        ...

    def open(self, name: str) -> IO[bytes] | None:
        """Return a file to read; None if there is none of this name."""
        ...

    def scan(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin so, in any order, without holding them all."""
        ...

    def delete(self, *names: str) -> None:
        """Delete what is there of these."""
        ...

    def sweep(self) -> None:
        """Delete what broken uploads have left."""
        ...


@contextmanager
def writing(what: str) -> Generator[None]:
    """Raise an error that a client can act on if a disk is full or gone.

    :raises StoreUnavailable:
    """
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"The {what} cannot be stored: {error.strerror}") from error


def too_large(most_bytes: int) -> BodyTooLarge:
    """Return the error of a file that is over the limit."""
    return BodyTooLarge(f"The file is over the limit of {most_bytes} bytes", param="file")


def sorted_names(objects: Objects, prefix: str) -> list[str]:
    """Return the names that begin so, sorted; for few."""
    return sorted(objects.scan(prefix))


def read_each(names: Iterable[str], read: Callable[[str], T | None]) -> Iterator[T]:
    """Yield what `read` returns for each name, but None: a few are read at once, and held."""
    waiting = iter(names)
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(islice(waiting, READ_AHEAD)):
            yield from (found for found in readers.map(read, some) if found is not None)


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder; nothing if it is gone, and nothing temporary."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield entry


class FolderObjects:
    """Files below one folder: a disk of one machine, or a volume that all machines mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, content: bytes) -> None:
        """Store content so that it is there whole, or not at all."""
        with writing("file"), self._replacing(name) as file:
            file.write(content)

    def put_from(self, name: str, source: IO[bytes], most_bytes: int | None) -> int:
        """Store what `source` holds, as `put` does."""
        with writing("file"), self._replacing(name) as file:
            shutil.copyfileobj(source, file, COPY_BYTES)
            size = file.tell()
            if most_bytes is not None and size > most_bytes:
                raise too_large(most_bytes)
        return size

    @contextmanager
    def _replacing(self, name: str) -> Generator[IO[bytes]]:
        """Give a file to write that takes its place at the end."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def append(self, name: str, content: bytes) -> None:
        """Add content behind the rest, through to the disk."""
        path = self._folder / name
        with writing("file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def get(self, name: str) -> bytes | None:
        """Return a file's content."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, name: str) -> IO[bytes] | None:
        """Open a file."""
        try:
            return (self._folder / name).open("rb")
        except FileNotFoundError:
            return None

    def scan(self, prefix: str) -> Iterator[str]:
        """Yield the files of one folder whose paths begin so, and those of its subfolders."""
        folder, _, start = prefix.rpartition("/")
        for entry in _entries(self._folder / folder):
            if entry.name.startswith(start):
                yield from self._below(f"{folder}/{entry.name}" if folder else entry.name, entry)

    def _below(self, name: str, entry: os.DirEntry[str]) -> Iterator[str]:
        """Yield the name of a file, or those of all files in a folder."""
        if not entry.is_dir(follow_symlinks=False):
            yield name
            return
        for inner in _entries(entry.path):
            yield from self._below(f"{name}/{inner.name}", inner)

    def delete(self, *names: str) -> None:
        """Delete files, and a batch's folder with the last of its own."""
        for name in names:
            path = self._folder / name
            path.unlink(missing_ok=True)
            if path.parent.parent != self._folder:
                with suppress(OSError):  # there is more in it
                    path.parent.rmdir()

    def sweep(self) -> None:
        """Delete temporary files that are no longer written."""
        with suppress(OSError):
            for path in self._folder.rglob(".*"):
                if time.time() - path.stat().st_mtime > STALE_S and path.is_file():
                    path.unlink(missing_ok=True)
