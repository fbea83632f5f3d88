"""docs/durability.md names tests; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
PAGE = TESTS.parent / "docs" / "durability.md"
FILE = r"((?:unit|integration|e2e|fuzz)/(?:\w+/)*)?(test_\w+)"


def test_every_test_that_the_page_names_is_there() -> None:
    named = 0
    for row in PAGE.read_text().splitlines():
        cell = row.rpartition(" | ")[2] if row.startswith("| ") else ""
        folder, text = "", ""
        for found in re.finditer(rf"{FILE}|`(\w+?)(\.{{3}})?`", cell):
            folder = found[1] or folder
            if found[2]:
                text = (TESTS / folder / f"{found[2]}.py").read_text()
            else:
                assert re.search(rf"def test_{found[3]}" + ("" if found[4] else r"\b"), text), (
                    f"{found[3]}: {row}"
                )
            named += 1
    assert named > 40
