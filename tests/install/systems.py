"""README's first lines, to the letter, in fresh chroots: `make test-systems ARGS="trixie noble"`.

For each system it prints a row of docs/install.md: system, Python, way, result, seconds from the first
line to the answer, megabytes of the environment, command. Without names, all systems are tried.
`--unit-tests` runs the unit tests that need no torch in place of the demo. Needs root, debootstrap, a
package index, and 8 GB (if pip takes PyTorch's CUDA build) of one system after the other; `--pip-cache`
lets them share pip's downloads. Logs stay in `build/systems`.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.install.checkout import ROOT
from tests.install.chroot import CHECKOUT, Chroot, System, check_rights

SYSTEMS = {
    system.suite: system
    for system in (
        System("Debian 12", "bookworm"),
        System("Debian 13", "trixie"),
        System("Ubuntu 24.04", "noble", "ubuntu"),
        System("Ubuntu 26.04", "resolute", "ubuntu"),
    )
}


@dataclass(frozen=True)
class Trial:
    """What is done in a fresh system."""

    way: str
    lines: tuple[str, ...]
    end: re.Pattern[str]
    """What the log of a good end has; its groups are filled into `result`."""
    result: str
    environment: str
    """The folder of the checkout that the lines install into."""
    options: str = ""


def first_lines() -> list[str]:
    """Return the commands of README's first block."""
    text = (ROOT / "README.md").read_text()
    _, _, rest = text.partition("```sh\n")
    return rest.partition("```")[0].strip().splitlines()


def demo() -> Trial:
    """Return README's first lines; the last one is to end after its answer."""
    *lines, last = first_lines()
    return Trial(
        "README's first lines",
        (*lines, f"{last} ARGS=--once"),
        re.compile(r"^\d+ tokens, the first after ", re.MULTILINE),
        "the demo's answer",
        ".venv",
    )


def unit_tests() -> Trial:
    """Return what runs the unit tests on the system's Python."""
    return Trial(
        "no torch, locked",
        (first_lines()[0], "python3 scripts/pythons.py --own"),
        re.compile(r"^(\d+) passed(.*) in [\d.]+s", re.MULTILINE),
        "{} unit tests passed{}",
        ".venv-pythons",
        " --unit-tests",
    )


def python_of(folder: Path) -> str:
    """Return the version of the Python of an environment in this folder, such as `3.13`."""
    for file in (*folder.glob("pyvenv.cfg"), *folder.glob("*/pyvenv.cfg")):
        if version := re.search(r"^version = (\d+\.\d+)", file.read_text(), re.MULTILINE):
            return version[1]
    return "none"


def tried(
    system: System, trial: Trial, folder: Path, *, cache: Path | None, keep: bool
) -> tuple[bool, str]:
    """Return whether the lines came to their good end, and the row."""
    chroot = Chroot(system, folder, cache=cache)
    log_file = folder / f"{system.suite}.log"
    with log_file.open("w") as log:
        chroot.make(log)
        began_s = time.monotonic()
        code = chroot.run("\n".join(trial.lines), log)
        seconds = time.monotonic() - began_s
    ended = trial.end.search(log_file.read_text(errors="replace"))
    good = code == 0 and ended is not None
    result = trial.result.format(*ended.groups()) if good and ended else f"FAILED: {log_file}"
    version = python_of(chroot.root / CHECKOUT / trial.environment)
    size = f"{chroot.megabytes(trial.environment):,}"
    command = f'`make test-systems ARGS="{system.suite}{trial.options}"`'
    cells = (f"{system.title}, chroot", version, trial.way, result, f"{seconds:.0f}", size, command)
    if not keep:
        chroot.remove()
    return good, f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(SYSTEMS)}; all if none is named")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/systems")
    parser.add_argument("--pip-cache", type=Path, help="a folder of pip's downloads, shared")
    parser.add_argument("--unit-tests", action="store_true", help="in place of the demo")
    parser.add_argument("--keep", action="store_true", help="leave the roots there")
    options = parser.parse_args()
    names: list[str] = options.systems or list(SYSTEMS)
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    check_rights()
    options.folder.mkdir(parents=True, exist_ok=True)
    trial = unit_tests() if options.unit_tests else demo()
    failed = 0
    for name in names:
        good, row = tried(
            SYSTEMS[name], trial, options.folder, cache=options.pip_cache, keep=options.keep
        )
        failed += not good
        print(row, flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
