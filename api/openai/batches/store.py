"""Batches in the storage that all API processes share. Blocking: call it in a thread.

    batches/<id>/batch.json           the batch's current state
    batches/<id>/cancel               its cancellation was requested, at this Unix second
    batches/<id>/rows.<drive>.jsonl   answers, of one process's drive; together they are the progress
    batches/open/<id>                 it has not ended

A bucket has many pieces of the third. Nothing but its driver's lease is in Redis: a batch outlives
all of its processes and Redis too.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from api.access.owned import owned
from api.openai.batches.objects import read_each, sorted_names
from penstock.clock import clock
from penstock.errors import StoreUnavailable
from penstock.transport.accounts.keyring import KeyCard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from api.openai.batches.objects import Objects

BATCH_ID: Final = re.compile(r"batch_[0-9a-f]{32}")
ENDED: Final = frozenset({"failed", "completed", "expired", "cancelled"})


class Batch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A batch. `times` has the Unix second at which it came to each status."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_s: int
    expires_s: int
    status: str = "validating"
    key: KeyCard | None = None
    metadata: dict[str, str] | None = None
    times: dict[str, int] = {}
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[dict[str, Any], ...] = ()

    def to(self, status: str, **fields: Any) -> Batch:
        """Return the batch in another status."""
        times = {**self.times, status: int(clock.now_s())}
        return msgspec.structs.replace(self, status=status, times=times, **fields)


class Row(msgspec.Struct, frozen=True):
    """One line's answer. `line` counts from 0."""

    line: int
    custom_id: str
    status: int
    request_id: str
    body: Any


class Place(NamedTuple):
    """Where a row lies: in which piece, and at which byte of it."""

    name: str
    offset: int


_batches = msgspec.json.Decoder(Batch)
_rows = msgspec.json.Decoder(Row)
_encoder = msgspec.json.Encoder()


class BatchStore:
    """The batches of a storage. Every method raises `StoreUnavailable` if that does not answer."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def add(self, batch: Batch) -> None:
        """Store a new batch; from now on, some process drives it.

        :raises StoreUnavailable: the storage takes no more; nothing is stored.
        """
        try:
            self.save(batch)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                self._objects.delete(_name(batch.id, "batch.json"), _open(batch.id))
            raise

    def save(self, batch: Batch) -> None:
        """Store a batch's current state; one that has not ended is open afterwards.

        Two processes drive a batch for some seconds if Redis has lost the lease. One may write
        after the other has closed the batch: it is driven again then.
        """
        self._objects.put(_name(batch.id, "batch.json"), _encoder.encode(batch))
        if batch.status not in ENDED and self._objects.get(_open(batch.id)) is None:
            self._objects.put(_open(batch.id), b"")

    def close(self, batch: Batch) -> None:
        """Store a batch that has ended."""
        self.save(batch)
        self._objects.delete(_open(batch.id), *self._row_names(batch.id))
        if not self.has_ended(batch.id):  # another process has written meanwhile, see `save`
            self._objects.put(_open(batch.id), b"")

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch, or None if there is none."""
        content = self._objects.get(_name(batch_id, "batch.json"))
        if content is None:
            return None
        try:
            batch = _batches.decode(content)
        except (msgspec.DecodeError, RecursionError):
            return None
        if batch.status in ENDED:
            return batch
        asked_s = self.cancelled_s(batch_id)
        if asked_s is None:
            return batch
        times = {**batch.times, "cancelling": asked_s}
        return msgspec.structs.replace(batch, status="cancelling", times=times)

    def has_ended(self, batch_id: str) -> bool:
        """Return whether a batch has ended; one that was never stored has not."""
        batch = self.get(batch_id)
        return batch is not None and batch.status in ENDED

    def own(self, batch_id: str, tenant: str) -> Batch:
        """Return a batch of the caller.

        :raises UnknownObject: see `owned`.
        """
        batch = self.get(batch_id) if BATCH_ID.fullmatch(batch_id) else None
        return owned(batch, tenant, kind="batch", object_id=batch_id)

    def batches(self, tenant: str) -> list[Batch]:
        """Return the caller's batches, the newest first."""
        names = self._objects.scan("batches/batch_")
        ids = (name.split("/")[1] for name in names if name.endswith("/batch.json"))
        own = [batch for batch in read_each(ids, self.get) if batch.tenant == tenant]
        return sorted(own, key=lambda batch: (-batch.created_s, batch.id))

    def open_ids(self) -> list[str]:
        """Return the ids of batches that have not ended."""
        return [name.rpartition("/")[2] for name in sorted_names(self._objects, _open("batch_"))]

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch's end."""
        if self.cancelled_s(batch_id) is None:
            self._objects.put(_name(batch_id, "cancel"), str(int(clock.now_s())).encode())

    def cancelled_s(self, batch_id: str) -> int | None:
        """Return when a batch's cancellation was requested; None if it was not."""
        content = self._objects.get(_name(batch_id, "cancel"))
        if content is None:
            return None
        return int(content) if content.isdigit() else int(clock.now_s())

    # -- progress

    def append(self, batch_id: str, drive: str, rows: Iterable[Row]) -> None:
        """Write answers of one drive, through to the storage."""
        content = b"".join(_encoder.encode(row) + b"\n" for row in rows)
        self._objects.append(_name(batch_id, f"rows.{drive}.jsonl"), content)

    def rows(self, batch_id: str) -> Iterator[Row]:
        """Yield the answers so far; one line may be there twice, after a change of drivers."""
        return (row for _, row in self.placed_rows(batch_id))

    def placed_rows(self, batch_id: str) -> Iterator[tuple[Place, Row]]:
        """Yield the answers so far with their places."""
        for name in self._row_names(batch_id):
            with self.open_piece(name) as file:
                offset = 0
                for line in file:
                    with suppress(msgspec.DecodeError, RecursionError):  # torn by a power cut
                        yield Place(name, offset), _rows.decode(line)
                    offset += len(line)

    def open_piece(self, name: str) -> IO[bytes]:
        """Open a piece of the answers.

        :raises StoreUnavailable: it is gone, because another process has closed the batch.
        """
        file = self._objects.open(name)
        if file is None:
            raise StoreUnavailable("The batch's answers are gone: another process has ended it")
        return file

    def row_at(self, piece: IO[bytes], place: Place) -> Row:
        """Read one answer again."""
        piece.seek(place.offset)
        return _rows.decode(piece.readline())

    def _row_names(self, batch_id: str) -> list[str]:
        return sorted_names(self._objects, _name(batch_id, "rows."))


def _name(batch_id: str, what: str) -> str:
    return f"batches/{batch_id}/{what}"


def _open(batch_id: str) -> str:
    return f"batches/open/{batch_id}"


def new_batch_id() -> str:
    """Return a fresh id."""
    return f"batch_{secrets.token_hex(16)}"
