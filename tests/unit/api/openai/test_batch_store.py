"""A batch that two processes drive at once, since Redis has lost the lease, still ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from api.openai.batches.objects import FolderObjects
from api.openai.batches.store import Batch, BatchStore, new_batch_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS_OF_CLOSE = 4


class Interrupted(FolderObjects):
    """Runs something once, before the call of this number."""

    def __init__(self, folder: Path, number: int, meanwhile: Callable[[], None]) -> None:
        super().__init__(folder)
        self._left = number
        self._meanwhile = meanwhile

    def _count(self) -> None:
        if self._left == 0:
            self._meanwhile()
        self._left -= 1

    def put(self, name: str, content: bytes) -> None:
        self._count()
        super().put(name, content)

    def get(self, name: str) -> bytes | None:
        self._count()
        return super().get(name)

    def delete(self, *names: str) -> None:
        self._count()
        super().delete(*names)


def opened(folder: Path) -> tuple[BatchStore, Batch]:
    """A store with a new batch in it."""
    store = BatchStore(FolderObjects(folder))
    batch = Batch(new_batch_id(), "a", "/v1/completions", "file", "24h", 0, 9)
    store.add(batch)
    return store, batch


@pytest.mark.parametrize("number", range(CALLS_OF_CLOSE + 1))
def test_a_late_write_leaves_a_batch_that_is_driven_again(tmp_path: Path, number: int) -> None:
    late, batch = opened(tmp_path)

    def write() -> None:
        late.save(batch.to("in_progress"))

    BatchStore(Interrupted(tmp_path, number, write)).close(batch.to("completed"))
    if number == CALLS_OF_CLOSE:
        write()

    assert late.has_ended(batch.id) or late.open_ids() == [batch.id]


@pytest.mark.parametrize("number", range(2))
def test_a_close_within_a_late_write(tmp_path: Path, number: int) -> None:
    other, batch = opened(tmp_path)

    def close() -> None:
        other.close(batch.to("completed"))

    BatchStore(Interrupted(tmp_path, number, close)).save(batch.to("in_progress"))

    assert other.has_ended(batch.id) or other.open_ids() == [batch.id]
