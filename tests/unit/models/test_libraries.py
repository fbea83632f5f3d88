"""What we touch of Transformers beyond its documented interface (docs/adr/0013)."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from penstock.models.loading import libraries

ROOT = Path(__file__).parents[3]
while not (ROOT / "pyproject.toml").is_file():
    ROOT = ROOT.parent
SOURCE = ROOT / "src/penstock/models"
LISTED = {tuple(name.split(":")) for name in libraries.PRIVATE_PARTS}
INSTALLED = Version(importlib.metadata.version("transformers"))


def requirement() -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"]["worker"]
    return next(Requirement(line) for line in lines if line.startswith("transformers"))


@pytest.mark.parametrize("name", libraries.PRIVATE_PARTS)
def test_the_installed_release_has_every_private_part(name):
    assert name not in libraries.missing_parts()


def test_a_part_that_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(libraries.PRIVATE_PARTS, "cache_utils:NoSuchCache", "a test")
    monkeypatch.setitem(libraries.PRIVATE_PARTS, "no_such_module:part", "a test")
    libraries.missing_parts.cache_clear()
    assert libraries.missing_parts() == ("cache_utils:NoSuchCache", "no_such_module:part")
    monkeypatch.undo()
    libraries.missing_parts.cache_clear()


def test_the_code_uses_no_private_part_that_is_not_listed():
    """`transformers_module("a").b` and what a `transformers()` has that is no plain class."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Call)
                and isinstance(node.value.func, ast.Name)
                and node.value.func.id == "transformers_module"
                and isinstance(node.value.args[0], ast.Constant)
            ):
                found.add((node.value.args[0].value, node.attr))
    assert found, "the border has another name now: mend this test"
    assert found <= {(module, path.split(".")[0]) for module, path in LISTED}


def test_the_code_calls_no_underscored_method_of_a_module_that_is_not_listed():
    listed = {path.split(".")[-1] for _, path in LISTED}
    called = set()
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        called |= set(re.findall(r"\bmodule\.(_[a-z]\w+)\(", text))
        called |= set(re.findall(r"getattr\((?:self\.)?module, \"(_\w+)\"", text))
    assert called
    assert called <= listed


def test_the_tested_release_is_one_that_pyproject_allows():
    lines = (ROOT / "scripts/tested.txt").read_text(encoding="utf-8").splitlines()
    tested = next(Requirement(line) for line in lines if line.startswith("transformers=="))
    version = next(iter(tested.specifier)).version
    assert requirement().specifier.contains(version)


@pytest.mark.skipif("PENSTOCK_TEST_NEWEST" in os.environ, reason="the newest may be newer")
def test_the_installed_release_is_one_that_pyproject_allows():
    assert requirement().specifier.contains(INSTALLED)
