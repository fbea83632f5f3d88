"""Blocks of KV cache as files: one a block, found by its digest, bounded together by bytes.

The files of all workers of a host lie in one folder, in one subfolder for each model, format and
version. A file that is damaged or belongs to something else is a miss. Using a file renews its
time; when the folder is full, the least recently used files of all workers are removed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_HEADER: Final = struct.Struct("<8s16s16sQI")
HEADER_BYTES: Final = _HEADER.size
_MAGIC: Final = b"PSKVBLK1"
_ID: Final = "id"
_SUFFIX: Final = ".kv"
_PART: Final = ".part"
_RENEWED_S: Final = 30.0
"""A file's time is not renewed more often."""
_PART_LIFE_S: Final = 600.0
"""An unfinished file that is older was left by a process that has died."""
_FULL: Final = 0.9
"""Share of the bound that a sweep leaves."""


def pack(identity: bytes, digest: bytes, payload: bytes | memoryview) -> bytes:
    """Return the header of a block: whose it is, which one, how long, and its checksum."""
    return _HEADER.pack(_MAGIC, identity, digest, len(payload), zlib.crc32(payload))


def size_in(header: bytes | bytearray) -> int:
    """Return the length that a header states.

    :raises ValueError: it is no header.
    """
    try:
        return int(_HEADER.unpack(header)[3])
    except struct.error as error:
        raise ValueError(str(error)) from error


def is_whole(identity: bytes, digest: bytes, content: bytes | bytearray) -> bool:
    """Return whether this is a block with its header, undamaged, and not another one."""
    payload = memoryview(content)[HEADER_BYTES:]
    return content[:HEADER_BYTES] == pack(identity, digest, payload)


def folder_id(folder: Path) -> str:
    """Return the name of a store that all processes which share it read there; the first makes it.

    A store that cannot be written has another name in each process.
    """
    name = os.urandom(8).hex()
    part = folder / f"{_ID}.{name}{_PART}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(name)
        with suppress(FileExistsError):
            os.link(part, folder / _ID)  # whole, or not at all
        part.unlink()
        return (folder / _ID).read_text()[: 2 * len(name)]
    except (OSError, UnicodeDecodeError):
        return name


class BlockFiles:
    """The blocks of one model in a folder that processes share. Any thread may use it."""

    def __init__(self, folder: Path, identity: bytes, most_bytes: int) -> None:
        """`identity` (16 bytes) is of all that decides what a block's bytes mean."""
        self._root = folder
        self.identity = identity
        self._folder = folder / identity.hex()
        self._most_bytes = most_bytes
        self._unswept = 0
        # Containers that share the folder have processes of the same number.
        self._writer = f"{os.getpid()}-{os.urandom(4).hex()}"

    def read(self, digest: bytes) -> bytes | None:
        """Return a block's content; None if it is not there or damaged.

        :raises OSError: the folder cannot be read.
        """
        content = self.read_with_header(digest)
        return None if content is None else bytes(memoryview(content)[HEADER_BYTES:])

    def read_with_header(self, digest: bytes) -> bytes | None:
        """Return a block as its file has it, likewise.

        :raises OSError: the folder cannot be read.
        """
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if not is_whole(self.identity, digest, content):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _RENEWED_S:
                os.utime(path)
        return content

    def write(self, digest: bytes, content: bytes) -> None:
        """Write a block; readers see it whole or not at all.

        :raises OSError: the folder cannot be written.
        """
        path = self._path(digest)
        self._make_folders(path.parent)
        part = path.with_suffix(f".{self._writer}{_PART}")
        header = pack(self.identity, digest, content)
        try:
            with part.open("wb") as file:
                file.write(header)
                file.write(content)
            part.rename(path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
        self._unswept += len(header) + len(content)
        if self._unswept > self._most_bytes // 32:
            self.sweep()

    def has(self, digest: bytes) -> bool:
        """Return whether a block's file is there."""
        return self._path(digest).exists()

    def sweep(self) -> int:
        """Remove what was not used for longest until all fits; return the bytes that are left.

        One process sweeps at a time; the others go on.

        :raises OSError: the folder cannot be read.
        """
        with self._alone() as is_alone:
            if not is_alone:
                return -1
            self._unswept = 0
            files = sorted(self._all())
            left = sum(size for _, size, _ in files)
            for _, size, path in files if left > self._most_bytes * _FULL else ():
                if left <= self._most_bytes * _FULL:
                    break
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108 - hundreds of thousands of paths
                left -= size
            return left

    def newest(self, most: int) -> list[bytes]:
        """Return the digests of this model's blocks that were used last, the latest first."""
        found: list[tuple[float, bytes]] = []
        for used_s, _, path in self._scan(str(self._folder)):
            with suppress(ValueError):
                found.append((used_s, bytes.fromhex(path.rpartition("/")[2].removesuffix(_SUFFIX))))
        found.sort(reverse=True)
        return [digest for _, digest in found[:most]]

    def _make_folders(self, *further: Path) -> None:
        """Make the missing folders; prompts can be inferred from blocks, so only our user may read them."""
        self._root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self._root, self._folder, *further):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / f"{name}{_SUFFIX}"

    @contextmanager
    def _alone(self) -> Generator[bool]:
        self._make_folders()
        with (self._root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _all(self) -> list[tuple[float, int, str]]:
        """Return the time of use, the size and the path of every model's files."""
        with os.scandir(self._root) as folders:
            names = [entry.path for entry in folders if entry.is_dir(follow_symlinks=False)]
        return [file for name in names for file in self._scan(name)]

    def _scan(self, folder: str) -> list[tuple[float, int, str]]:
        files: list[tuple[float, int, str]] = []
        try:
            with os.scandir(folder) as shards:
                paths = [entry.path for entry in shards if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return files
        for path in paths:
            with suppress(FileNotFoundError), os.scandir(path) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if entry.name.endswith(_SUFFIX):
                            files.append((status.st_mtime, status.st_size, entry.path))
                        elif time.time() - status.st_mtime > _PART_LIFE_S:
                            os.unlink(entry)  # noqa: PTH108 - as above
        return files
