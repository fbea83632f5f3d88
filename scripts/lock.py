"""Write `scripts/locks/<python>.txt`: the release of each package that `make` installs.

Usage: `python scripts/lock.py [--upgrade] [3.13 ...]` with the package uv installed. Each file is a
list of constraints for pip: it installs nothing by itself, and holds back what is installed. It is
resolved from pyproject.toml with all extras and groups, for Linux on x86-64 and aarch64, from wheels
alone, so that a package without one for that Python or machine is an error here. What the files have
stays as it is where pyproject.toml still allows it, unless `--upgrade` is given.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "scripts/locks"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The oldest C libraries that all wheels run on: Debian 12 and Ubuntu 22.04 have 2.35 and newer.
MACHINES = {"x86_64": "x86_64-manylinux_2_34", "aarch64": "aarch64-manylinux_2_35"}
# What belongs to a build of torch (CPU, CUDA, XPU), and is pinned by it or by bigdl-llm's OpenMP.
OF_TORCHS_BUILD = ("cuda-", "intel-", "nvidia-", "tcmlib==", "triton==", "umf==")
HEADER = "# Made by scripts/lock.py (make lock); constraints for Python {python} on Linux.\n"


def resolve(python: str, platform: str, earlier: Path, *, upgrade: bool) -> list[str]:
    """Return `name==version` lines, sorted by name."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "lock.txt"
        if earlier.exists():  # uv keeps the releases that its output has already
            lines = earlier.read_text().splitlines()
            made.write_text("\n".join(line.partition(" ;")[0] for line in lines) + "\n")
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
        command += ["--all-extras", "--group", "dev", "--only-binary", ":all:"]
        command += ["--no-binary", "docopt"]  # as bootstrap.py has it
        command += ["--python-version", python, "--python-platform", platform]
        command += ["--constraint", "scripts/tested.txt", "--no-header", "--no-annotate"]
        command += ["--upgrade"] if upgrade else []
        done = subprocess.run([*command, "--output-file", str(made)], cwd=ROOT, check=False)
        if done.returncode != 0:
            sys.exit(f"penstock lock: Python {python} on {platform} cannot be resolved, see above")
        lines = made.read_text().splitlines()
    return [line for line in lines if line and not line.startswith(OF_TORCHS_BUILD)]


def merge(by_machine: dict[str, list[str]]) -> list[str]:
    """Return one list of lines; those of one machine alone say so."""
    lines: list[str] = []
    for line in sorted({line for found in by_machine.values() for line in found}):
        machines = [machine for machine, found in by_machine.items() if line in found]
        alone = f" ; platform_machine == '{machines[0]}'" if len(machines) == 1 else ""
        lines.append(line + alone)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    parser.add_argument("pythons", nargs="*", default=PYTHONS, help="such as 3.13; all by default")
    options = parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    for python in options.pythons:
        lock = LOCKS / f"{python}.txt"
        lines = merge(
            {
                machine: resolve(python, platform, lock, upgrade=options.upgrade)
                for machine, platform in MACHINES.items()
            }
        )
        lock.write_text(HEADER.format(python=python) + "\n".join(lines) + "\n")
        print(f"{lock.relative_to(ROOT)}: {len(lines)} releases")


if __name__ == "__main__":
    main()
