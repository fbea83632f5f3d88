"""`pip install penstock` without extras: API and command line run on what that alone brings.

The tests' environment has everything, so each process here refuses what belongs to a distribution
that a base installation would not have.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LACKING = """
import importlib.abc, importlib.metadata, json, sys

modules, distributions = map(frozenset, json.loads(sys.argv.pop(1)))
genuine = importlib.metadata.Distribution.from_name.__func__

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def from_name(kind, name):
    if name.lower().replace("_", "-") in distributions:
        raise importlib.metadata.PackageNotFoundError(name)
    return genuine(kind, name)

sys.meta_path.insert(0, Refuse())
importlib.metadata.Distribution.from_name = classmethod(from_name)
"""
"""What each process begins with: it lacks these modules and distributions."""


def brought(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return the distributions that pip installs for one, by their canonical names."""
    found: set[str] = set()
    left = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while left:
        one, wanted = left.pop()
        if (one, wanted) in seen:
            continue
        seen.add((one, wanted))
        try:
            lines = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(canonicalize_name(one))
        for line in lines:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in {"", *wanted}):
                left.append((needed.name, frozenset(needed.extras)))
    return found


def lacking() -> tuple[list[str], list[str]]:
    """Return the top-level modules and the distributions that a base installation lacks."""
    base = brought("penstock")
    assert {"celery", "fastapi", "redis"} <= base
    modules: set[str] = set()
    distributions: set[str] = set()
    for module, names in importlib.metadata.packages_distributions().items():
        owners = {canonicalize_name(one) for one in names}
        distributions |= owners - base
        if not owners & base:
            modules.add(module)
    present = {
        name for name in ("torch", "numpy", "transformers") if importlib.util.find_spec(name)
    }
    assert {"openai", *present} <= modules
    return sorted(modules - {"api", "workers", "penstock"}), sorted(distributions)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LACKING + code, json.dumps(lacking()), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("from penstock.cli.application import main; main()", *arguments)


def test_the_api_is_there() -> None:
    done = run("import api; print(api.app.title)")
    assert (done.returncode, done.stdout) == (0, "Penstock\n"), done.stderr


@pytest.mark.parametrize("command", ["", "up", "status"])
def test_the_command_line_is_there(command: str) -> None:
    done = penstock(*filter(None, [command]), "--help")
    assert done.returncode == 0, done.stderr


def test_models_are_listed() -> None:
    done = penstock("models", "--json")
    assert done.returncode == 0, done.stderr
    assert "bigdl-demo" in done.stdout


def test_doctor_names_what_is_missing() -> None:
    done = penstock("doctor")
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "pip install 'penstock[worker]'" in said
    assert "pip install 'penstock[client]'" in said
