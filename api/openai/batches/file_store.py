"""Uploaded files on a disk that all API processes share. Blocking: call it in a thread.

A file is two: its bytes, and a card beside them that is written last, so that half an upload is no
file. Names on disk are ids of our own making; what clients call a file is only in its card.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Final

import msgspec

from api.access.owned import owned
from penstock.clock import clock
from penstock.errors import BodyTooLarge, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}")
LONGEST_NAME: Final = 255
COPY_BYTES: Final = 1024 * 1024
STALE_S: Final = 86_400


class FileCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a file. Times are Unix seconds."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_s: int
    expires_s: int | None = None


_decoder = msgspec.json.Decoder(FileCard)


@contextmanager
def writing(what: str) -> Generator[None]:
    """Say of a disk that is full or gone what a client can act on.

    :raises StoreUnavailable:
    """
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"The {what} cannot be stored: {error.strerror}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that it is there with all of its content, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def new_id(seed: str = "") -> str:
    """Return a file's id; the same for the same seed."""
    return "file-" + (
        hashlib.sha256(seed.encode()).hexdigest()[:32] if seed else secrets.token_hex(16)
    )


class FileStore:
    """The files below one folder."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder / "objects"
        self._most_bytes = most_bytes

    def add(
        self,
        source: IO[bytes],
        *,
        tenant: str,
        filename: str,
        purpose: str,
        expires_after_s: int | None = None,
        file_id: str | None = None,
        bounded: bool = True,
    ) -> FileCard:
        """Store what `source` holds; our own output may be larger than what clients may send.

        :raises BodyTooLarge: it is over the limit; nothing is stored.
        :raises StoreUnavailable: the disk takes no more; nothing is stored.
        """
        file_id = file_id or new_id()
        with writing("file"):
            size = self._write(file_id, source, bounded=bounded)
            now_s = int(clock.now_s())
            card = FileCard(
                id=file_id,
                tenant=tenant,
                filename=safe_name(filename),
                purpose=purpose,
                bytes=size,
                created_s=now_s,
                expires_s=None if expires_after_s is None else now_s + expires_after_s,
            )
            try:
                write_whole(self._card_path(file_id), msgspec.json.encode(card))
            except OSError:
                if self._card(file_id) is None:  # else it was whole before, and is the same
                    self.path(card).unlink(missing_ok=True)
                raise
        return card

    def _write(self, file_id: str, source: IO[bytes], *, bounded: bool) -> int:
        """Write a file's bytes, and return how many they are."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{file_id}.{secrets.token_hex(4)}"
        try:
            with temporary.open("wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
                size = target.tell()
                if bounded and size > self._most_bytes:
                    raise BodyTooLarge(
                        f"The file is over the limit of {self._most_bytes} bytes", param="file"
                    )
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(self._folder / file_id)
        finally:
            temporary.unlink(missing_ok=True)
        return size

    def own(self, file_id: str, tenant: str) -> FileCard:
        """Return the card of one of the caller's files.

        :raises UnknownObject: see `owned`.
        """
        card = self._card(file_id) if FILE_ID.fullmatch(file_id) else None
        return owned(card, tenant, kind="file", object_id=file_id)

    def path(self, card: FileCard) -> Path:
        """Return the path of a file's bytes."""
        return self._folder / card.id

    def cards(self, tenant: str) -> list[FileCard]:
        """Return the caller's files, the oldest first."""
        found = [card for card in self._all() if card.tenant == tenant]
        return sorted(found, key=lambda card: (card.created_s, card.id))

    def delete(self, card: FileCard) -> None:
        """Forget a file."""
        self._card_path(card.id).unlink(missing_ok=True)
        self.path(card).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete files that have expired, and what broken uploads have left."""
        for _ in self._all():  # looking at one that has expired deletes it
            pass
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink(missing_ok=True)

    def _all(self) -> Iterator[FileCard]:
        for path in self._folder.glob("file-*.json"):
            card = self._card(path.stem)
            if card is not None:
                yield card

    def _card(self, file_id: str) -> FileCard | None:
        try:
            card = _decoder.decode(self._card_path(file_id).read_bytes())
        except (FileNotFoundError, msgspec.DecodeError, RecursionError):
            return None
        if card.expires_s is not None and clock.now_s() >= card.expires_s:
            self.delete(card)
            return None
        return card

    def _card_path(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.json"


def safe_name(name: str) -> str:
    """Return a client's name for a file without folders and control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '"<>|:*?')
    return kept.strip(". ")[:LONGEST_NAME] or "file"
