"""Where a figure was measured, to stand beside it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from penstock.cli import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("torch", "transformers", "celery", "redis", "uvicorn", "uvloop")


@dataclass(frozen=True)
class Conditions:
    """Machine, code and libraries of a run. `load_average` is the machine's before it began."""

    cpu: str
    cores: int
    memory_gib: float
    python: str
    packages: dict[str, str]
    commit: str
    load_average: float
    date: str


def observe() -> Conditions:
    """Look at this machine and this checkout."""
    cpu = machine.cpu()
    versions = {name: machine.version_of(name) or "none" for name in _PACKAGES}
    return Conditions(
        cpu=cpu.name,
        cores=cpu.cores,
        memory_gib=round(machine.memory_bytes()[0] / 2**30, 1),
        python=machine.python_version(),
        packages=versions,
        commit=_commit(),
        load_average=round(os.getloadavg()[0], 2),
        date=time.strftime("%Y-%m-%d"),
    )


def show(conditions: Conditions) -> None:
    """Print the conditions in two lines."""
    print(
        f"{conditions.cpu}, {conditions.cores} cores, {conditions.memory_gib} GiB, "
        f"load {conditions.load_average}, commit {conditions.commit}"
    )
    print(", ".join(f"{name} {version}" for name, version in conditions.packages.items()))


def save(name: str, conditions: Conditions, result: dict[str, Any]) -> Path:
    """Write a result under `benchmarks/results/` and return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{conditions.date}-{conditions.commit}.json"
    text = json.dumps({"conditions": asdict(conditions), **result}, indent=2)
    path.write_text(text + "\n")
    return path


def _commit() -> str:
    def git(*arguments: str) -> str:
        asked = subprocess.run(
            ["git", *arguments], check=False, capture_output=True, text=True, cwd=ROOT
        )
        return asked.stdout.strip()

    dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or metadata.version("penstock")) + dirty
