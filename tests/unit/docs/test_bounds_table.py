"""The table of bounds in docs/operations.md: its constants, values and tests are there."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from penstock.settings import PREFIX, Settings
from tests.unit.deploy.test_web_deploy import ROOT
from tests.unit.docs.test_operations_guide import section

KIB, MIB = 1024, 1024**2
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (`.+?`) \| (.*?) \|$", section("Bounds"), re.MULTILINE)


def value_of(name: str) -> Any:
    """Return the value of a setting or of a constant."""
    if name.startswith(PREFIX):
        return Settings.model_fields[name.removeprefix(PREFIX).lower()].default
    module, _, constant = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), constant)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        pytest.skip(f"{module} needs torch")


def written(value: Any) -> set[str]:
    """Return the ways in which the table may write a value."""
    if not isinstance(value, int | float):
        return {"nothing is decompressed"}
    ways = {f"{value:,g}" if isinstance(value, float) else f"{value:,}"}
    for size, unit in ((KIB, "KiB"), (MIB, "MiB")):
        if value >= size and value % size == 0:
            ways.add(f"{value // size} {unit}")
    return ways


def test_every_source_of_input_has_its_rows() -> None:
    assert len(ROWS) > 50
    titles = re.findall(r"^### Of (.+)$", section("Bounds"), re.MULTILINE)
    assert titles == [
        "a client",
        "a file",
        "another host's store of KV blocks",
        "a FastChat peer",
        "a model's folder",
        "Redis",
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_is_true(row: tuple[str, str, str, str]) -> None:
    what, bound, names, test = row
    for name in re.findall(r"`([\w.]+)`", names):
        said = f"{what} {bound}"
        assert any(way in said for way in written(value_of(name))), (name, value_of(name), said)
    named = re.fullmatch(r"`(\w+)\.(\w+)`", test)
    assert named is not None, what
    files = list((ROOT / "tests").rglob(f"{named[1]}.py"))
    assert any(f"def {named[2]}(" in file.read_text() for file in files), test
