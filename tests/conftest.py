"""Loads the fixtures, one file an area, all of them pytest plugins."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.fixtures")  # before one of them imports another

pytest_plugins = [
    f"tests.fixtures.{path.stem}"
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if path.stem != "__init__"
]
