"""A batch's answers in the order of its lines, without holding them: their places are remembered.

Blocking: for threads.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed import WriteableBuffer

    from api.openai.batches.store import BatchStore, Place, Row

MOST_OPEN: Final = 16
"""Pieces that are open at once. Answers lie almost in the order of their lines, so few are enough."""


@dataclass(frozen=True, slots=True)
class _Answer:
    place: Place
    is_good: bool


class Answers:
    """The first answer to each line. Close it: it has files open."""

    def __init__(self, store: BatchStore, batch_id: str) -> None:
        """Read what answers there are.

        :raises StoreUnavailable: the storage does not answer, or the batch is being closed.
        """
        self._store = store
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._first: dict[int, _Answer] = {}
        for place, row in store.placed_rows(batch_id):
            is_good = row.status < HTTPStatus.BAD_REQUEST
            self._first.setdefault(row.line, _Answer(place, is_good))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def lines(self) -> set[int]:
        """Return the lines that have an answer."""
        return set(self._first)

    def rows(self, *, good: bool) -> Iterator[Row]:
        """Yield the answers that are results, or those that are errors, in the lines' order.

        :raises StoreUnavailable: the storage does not answer, or the batch was closed.
        """
        for line in sorted(self._first):
            answer = self._first[line]
            if answer.is_good == good:
                yield self._store.row_at(self._piece(answer.place.name), answer.place)

    def _piece(self, name: str) -> IO[bytes]:
        file = self._open.pop(name, None) or self._store.open_piece(name)
        self._open[name] = file
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return file


class Stream(io.RawIOBase):
    """Pieces of bytes, each made when its turn comes, as a file to read once."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return whether it can be read: always."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` as far as the current piece goes; return 0 at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
