"""Batches on the disk that all API processes share. Blocking: call it in a thread.

    batches/<id>/batch.json           the batch's current state
    batches/<id>/cancel               its cancellation was requested
    batches/<id>/rows.<drive>.jsonl   answers, of one process's drive; together they are the progress
    batches/open/<id>                 it has not ended

Nothing but its driver's lease is in Redis: a batch outlives all of its processes and Redis too.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from typing import TYPE_CHECKING, Any, Final

import msgspec

from api.access.owned import owned
from api.openai.batches.file_store import write_whole, writing
from penstock.clock import clock
from penstock.transport.accounts.keyring import KeyCard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

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


_batches = msgspec.json.Decoder(Batch)
_rows = msgspec.json.Decoder(Row)
_encoder = msgspec.json.Encoder()


class BatchStore:
    """The batches below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "batches"
        self._open = self._folder / "open"

    def add(self, batch: Batch) -> None:
        """Store a new batch; from now on, some process drives it.

        :raises StoreUnavailable: the disk takes no more; nothing is stored.
        """
        folder = self._folder / batch.id
        with writing("batch"):
            try:
                self._open.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
                self.save(batch)
                (self._open / batch.id).touch()
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def save(self, batch: Batch) -> None:
        """Store a batch's current state."""
        write_whole(self._folder / batch.id / "batch.json", _encoder.encode(batch))

    def close(self, batch: Batch) -> None:
        """Store a batch that has ended."""
        self.save(batch)
        (self._open / batch.id).unlink(missing_ok=True)
        for path in self._row_files(batch.id):
            path.unlink(missing_ok=True)

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch, or None if there is none."""
        try:
            batch = _batches.decode((self._folder / batch_id / "batch.json").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError, RecursionError):
            return None
        if batch.status in ENDED:
            return batch
        asked_s = self.cancelled_s(batch_id)
        if asked_s is None:
            return batch
        times = {**batch.times, "cancelling": asked_s}
        return msgspec.structs.replace(batch, status="cancelling", times=times)

    def own(self, batch_id: str, tenant: str) -> Batch:
        """Return a batch of the caller.

        :raises UnknownObject: see `owned`.
        """
        batch = self.get(batch_id) if BATCH_ID.fullmatch(batch_id) else None
        return owned(batch, tenant, kind="batch", object_id=batch_id)

    def batches(self, tenant: str) -> list[Batch]:
        """Return the caller's batches, the newest first."""
        found = (self.get(path.name) for path in self._folder.glob("batch_*"))
        own = [batch for batch in found if batch is not None and batch.tenant == tenant]
        return sorted(own, key=lambda batch: (-batch.created_s, batch.id))

    def open_ids(self) -> list[str]:
        """Return the ids of batches that have not ended."""
        return sorted(path.name for path in self._open.glob("batch_*"))

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch's end."""
        (self._folder / batch_id / "cancel").touch()

    def cancelled_s(self, batch_id: str) -> int | None:
        """Return when a batch's cancellation was requested; None if it was not."""
        try:
            return int((self._folder / batch_id / "cancel").stat().st_mtime)
        except FileNotFoundError:
            return None

    # -- progress

    def append(self, batch_id: str, drive: str, rows: Iterable[Row]) -> None:
        """Write answers of one drive, through to the disk."""
        path = self._folder / batch_id / f"rows.{drive}.jsonl"
        with path.open("ab") as file:
            file.write(b"".join(_encoder.encode(row) + b"\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def rows(self, batch_id: str) -> Iterator[Row]:
        """Yield the answers so far; one line may be there twice, after a change of drivers."""
        for path in self._row_files(batch_id):
            with path.open("rb") as file:
                for line in file:
                    try:
                        yield _rows.decode(line)
                    except (msgspec.DecodeError, RecursionError):  # torn by a power cut
                        continue

    def _row_files(self, batch_id: str) -> list[Path]:
        return sorted((self._folder / batch_id).glob("rows.*.jsonl"))


def new_batch_id() -> str:
    """Return a fresh id."""
    return f"batch_{secrets.token_hex(16)}"
