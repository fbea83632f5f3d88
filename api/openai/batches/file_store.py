"""Uploaded files in the storage that all API processes share. Blocking: call it in a thread.

A file is two objects: its bytes, and a card beside them that is written last, so that half an
upload is no file. Names in the storage are ids of our own making; what clients call a file is only
in its card.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final

import msgspec

from api.access.owned import owned
from api.openai.batches.objects import read_each
from penstock.clock import clock
from penstock.errors import StoreUnavailable, UnknownObject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.openai.batches.objects import Objects

FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}")
LONGEST_NAME: Final = 255
_FOLDER: Final = "objects"
_CARD: Final = ".json"


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


def new_id(seed: str = "") -> str:
    """Return a file's id; the same for the same seed."""
    return "file-" + (
        hashlib.sha256(seed.encode()).hexdigest()[:32] if seed else secrets.token_hex(16)
    )


class FileStore:
    """The files of a storage."""

    def __init__(self, objects: Objects, most_bytes: int) -> None:
        self._objects = objects
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
        :raises StoreUnavailable: the storage takes no more; nothing is stored.
        """
        file_id = file_id or new_id()
        most_bytes = self._most_bytes if bounded else None
        size = self._objects.put_from(f"{_FOLDER}/{file_id}", source, most_bytes)
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
            self._objects.put(_card_name(file_id), msgspec.json.encode(card))
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                if self._card(file_id) is None:  # else it was whole before, and is the same
                    self._objects.delete(f"{_FOLDER}/{file_id}")
            raise
        return card

    def own(self, file_id: str, tenant: str) -> FileCard:
        """Return the card of one of the caller's files.

        :raises UnknownObject: see `owned`.
        :raises StoreUnavailable: the storage does not answer.
        """
        card = self._card(file_id) if FILE_ID.fullmatch(file_id) else None
        return owned(card, tenant, kind="file", object_id=file_id)

    def open(self, card: FileCard) -> IO[bytes]:
        """Return a file's bytes to read.

        :raises UnknownObject: it was deleted since.
        :raises StoreUnavailable: the storage does not answer.
        """
        file = self._objects.open(f"{_FOLDER}/{card.id}")
        if file is None:
            raise UnknownObject(f"There is no file {card.id!r}", param="id")
        return file

    def cards(self, tenant: str) -> list[FileCard]:
        """Return the caller's files, the oldest first."""
        own_cards = [card for card in self._all() if card.tenant == tenant]
        return sorted(own_cards, key=lambda card: (card.created_s, card.id))

    def delete(self, card: FileCard) -> None:
        """Forget a file."""
        self._objects.delete(_card_name(card.id), f"{_FOLDER}/{card.id}")

    def sweep(self) -> None:
        """Delete files that have expired, and what broken uploads have left."""
        for _ in self._all():  # looking at one that has expired deletes it
            pass
        self._objects.sweep()

    def _all(self) -> Iterator[FileCard]:
        names = self._objects.scan(f"{_FOLDER}/file-")
        ids = (name[len(_FOLDER) + 1 : -len(_CARD)] for name in names if name.endswith(_CARD))
        return read_each(ids, self._card)

    def _card(self, file_id: str) -> FileCard | None:
        content = self._objects.get(_card_name(file_id))
        if content is None:
            return None
        try:
            card = _decoder.decode(content)
        except (msgspec.DecodeError, RecursionError):
            return None
        if card.expires_s is not None and clock.now_s() >= card.expires_s:
            self.delete(card)
            return None
        return card


def _card_name(file_id: str) -> str:
    return f"{_FOLDER}/{file_id}{_CARD}"


def safe_name(name: str) -> str:
    """Return a client's name for a file without folders and control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    letters = "".join(letter for letter in last if letter.isprintable() and letter not in '"<>|:*?')
    return letters.strip(". ")[:LONGEST_NAME] or "file"
