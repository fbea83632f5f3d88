"""Lists of many files are read without holding them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from api.openai.batches.file_store import FileStore
from api.openai.batches.objects import READ_AHEAD, FolderObjects, read_each, sorted_names

if TYPE_CHECKING:
    from pathlib import Path


def test_a_list_of_any_length_is_read_a_few_at_a_time() -> None:
    read_names: list[str] = []

    def read(name: str) -> str | None:
        read_names.append(name)
        return None if name.endswith("3") else name

    names = [str(number) for number in range(20 * READ_AHEAD)]
    results = read_each(iter(names), read)
    assert next(results) == "0"
    assert len(read_names) <= READ_AHEAD
    assert ["0", *results] == [name for name in names if not name.endswith("3")]


def test_a_folder_is_scanned_with_its_subfolders_and_without_what_is_being_written(
    tmp_path: Path,
) -> None:
    objects = FolderObjects(tmp_path)
    for name in ("a/b", "a/c/d", "a/c/e/f", "b/a"):
        objects.put(name, b"")
    (tmp_path / "a" / ".b.1234").touch()
    assert sorted_names(objects, "") == ["a/b", "a/c/d", "a/c/e/f", "b/a"]
    assert sorted_names(objects, "a/c") == ["a/c/d", "a/c/e/f"]
    assert sorted_names(objects, "a/b/") == sorted_names(objects, "none/x") == []


def test_expired_files_are_deleted_while_the_list_is_read(tmp_path: Path) -> None:
    store = FileStore(FolderObjects(tmp_path), 1)
    for number in range(2 * READ_AHEAD):
        life_s = None if number % 2 else 0
        store.add(
            io.BytesIO(b""), tenant="t", filename="a", purpose="batch", expires_after_s=life_s
        )
    store.sweep()
    assert len(sorted_names(FolderObjects(tmp_path), "")) == 2 * READ_AHEAD
    assert len(store.cards("t")) == READ_AHEAD
