"""Faults of files: what they break is broken, and mended where it should be."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine.reuse.block_files import BlockFiles
from tests.chaos import load_faults, store_faults
from tests.chaos.faults import LOADS, STORES, Faults
from tests.chaos.fleet import MODELS, Fleet

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = b"weights"
NAMES = [bytes([number]) * 16 for number in range(40)]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """The faults of a fleet of one worker that is not started."""
    for model in MODELS:
        (tmp_path / "models" / model).mkdir(parents=True)
        (tmp_path / "models" / model / load_faults.WEIGHTS).write_bytes(WHOLE)
    nothing: Any = None
    fleet = Fleet(
        tmp_path, tmp_path / "models", nothing, nothing, 60, on_demand=True, has_stores=True
    )
    fleet.workers = [nothing]
    monkeypatch.setattr(store_faults.asyncio, "sleep", _at_once)
    return Faults(fleet, random.Random(1))


async def _at_once(_pause_s: float) -> None:
    return


def test_kinds_are_added_with_what_they_break(faults: Faults) -> None:
    assert {*LOADS, *STORES} <= set(faults._kinds)


async def test_failing_loads_are_mended(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sorted(faults.fleet.models_of(0).rglob(load_faults.WEIGHTS))
    assert len(weights) == len(MODELS)
    seen: list[bytes] = []

    async def look(_pause_s: float) -> None:
        seen.extend(path.read_bytes() for path in weights)

    monkeypatch.setattr(load_faults.asyncio, "sleep", look)
    await faults.fail_loads()
    assert seen == [load_faults.HOLLOW] * len(MODELS)
    assert [path.read_bytes() for path in weights] == [WHOLE] * len(MODELS)
    [loss] = faults.losses
    assert loss.kind == "fail_loads"


async def test_damaged_blocks_are_misses_and_the_others_are_read(faults: Faults) -> None:
    files = BlockFiles(faults.fleet.store_of(0), b"i" * 16, 2**20)
    for name in NAMES:
        files.write(name, name * 8)
    await faults.damage_store()
    contents = [files.read(name) for name in NAMES]
    assert 5 < contents.count(None) < 35
    for name, content in zip(NAMES, contents, strict=True):
        assert content in {None, name * 8}


async def test_a_store_is_blocked_for_a_while_or_deleted(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = BlockFiles(faults.fleet.store_of(0), b"i" * 16, 2**20)
    files.write(NAMES[0], b"x")
    refused: list[bool] = []

    async def try_to_write(_pause_s: float) -> None:
        with pytest.raises(OSError, match=r"exists|directory"):
            files.write(NAMES[0], b"x")
        refused.append(True)

    monkeypatch.setattr(store_faults.asyncio, "sleep", try_to_write)
    await faults.block_store()
    assert refused
    files.write(NAMES[0], b"x")
    await faults.delete_store()
    assert files.read(NAMES[0]) is None
