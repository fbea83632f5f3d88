"""Blocks as files: what is damaged, foreign or gone is a miss, and the folder has a bound."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from penstock.engine.reuse.block_files import BlockFiles

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = b"i" * 16
DIGEST = b"d" * 16
CONTENT = bytes(range(256)) * 4


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def path_of(folder: Path) -> Path:
    (path,) = folder.rglob("*.kv")
    return path


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    return BlockFiles(tmp_path / "store", IDENTITY, 2**20)


def test_what_was_written_is_read_by_another_process(files: BlockFiles, tmp_path: Path):
    assert files.read(DIGEST) is None
    files.write(DIGEST, CONTENT)
    other = BlockFiles(tmp_path / "store", IDENTITY, 2**20)
    assert other.read(DIGEST) == CONTENT
    assert other.has(DIGEST)
    assert other.newest(10) == [DIGEST]
    assert (tmp_path / "store" / IDENTITY.hex()).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut", [0, 3, 51, 52, 53, 500, len(CONTENT) + 51])
def test_a_torn_file_is_a_miss(files: BlockFiles, tmp_path: Path, cut: int):
    files.write(DIGEST, CONTENT)
    path = path_of(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    assert files.read(DIGEST) is None
    assert not files.has(DIGEST)  # it will be written again


def test_a_flipped_bit_anywhere_is_a_miss(files: BlockFiles, tmp_path: Path):
    files.write(DIGEST, CONTENT)
    path = path_of(tmp_path)
    whole = path.read_bytes()
    for place in [*range(60), *range(60, len(whole), 37), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert files.read(DIGEST) is None, place
    path.write_bytes(whole)
    assert files.read(DIGEST) == CONTENT


def test_files_of_another_model_or_under_another_name_are_not_read(
    files: BlockFiles, tmp_path: Path
):
    files.write(DIGEST, CONTENT)
    other = BlockFiles(tmp_path / "store", b"j" * 16, 2**20)
    assert other.read(DIGEST) is None
    other.write(DIGEST, b"another")
    source, target = files._path(DIGEST), other._path(DIGEST)
    target.write_bytes(source.read_bytes())
    assert other.read(DIGEST) is None
    files.write(digest(1), b"one")
    files._path(digest(1)).write_bytes(source.read_bytes())
    assert files.read(digest(1)) is None


def test_the_folder_is_bounded_and_what_was_used_last_stays(tmp_path: Path):
    most = 64 * 1024
    files = BlockFiles(tmp_path, IDENTITY, most)
    other = BlockFiles(tmp_path, b"j" * 16, most)
    for number in range(100):
        (files if number % 2 else other).write(digest(number), CONTENT)
        os.utime((files if number % 2 else other)._path(digest(number)), (number, number))
    assert files.read(digest(1)) in {None, CONTENT}
    left = files.sweep()
    assert left == sum(path.stat().st_size for path in tmp_path.rglob("*.kv"))
    assert most * 0.8 < left <= most
    assert files.read(digest(99)) == CONTENT
    assert other.read(digest(98)) == CONTENT
    assert other.read(digest(2)) is None


def test_a_used_file_is_kept_longer(tmp_path: Path):
    files = BlockFiles(tmp_path, IDENTITY, 10 * (len(CONTENT) + 60))
    for number in range(9):
        files.write(digest(number), CONTENT)
        os.utime(files._path(digest(number)), (number, number))
    assert files.read(digest(0)) == CONTENT
    for number in range(9, 12):
        files.write(digest(number), CONTENT)
    files.sweep()
    assert files.read(digest(0)) == CONTENT
    assert files.read(digest(1)) is None


def test_what_dead_processes_left_half_written_goes(files: BlockFiles):
    files.write(DIGEST, CONTENT)
    part = files._path(DIGEST).with_suffix(".4711.part")
    part.write_bytes(b"half")
    files.sweep()
    assert part.exists()  # it may still be written
    old = time.time() - 3600
    os.utime(part, (old, old))
    files.sweep()
    assert not part.exists()


def test_writers_with_the_same_process_number_share_no_unfinished_file(
    files: BlockFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts: set[str] = set()
    rename = type(tmp_path).rename
    monkeypatch.setattr(
        type(tmp_path), "rename", lambda path, to: parts.add(path.name) or rename(path, to)
    )
    for one in (files, BlockFiles(tmp_path / "store", IDENTITY, 2**20)):
        one.write(DIGEST, CONTENT)
    assert len(parts) == 2
    assert all(part.endswith(".part") for part in parts)


def test_a_folder_that_is_deleted_is_made_again(files: BlockFiles, tmp_path: Path):
    files.write(DIGEST, CONTENT)
    for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "store").rmdir()
    assert files.read(DIGEST) is None
    assert files.newest(5) == []
    files.write(DIGEST, CONTENT)
    assert files.read(DIGEST) == CONTENT
