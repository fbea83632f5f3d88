"""README's first lines, to the letter, in fresh chroots: `make test-systems ARGS="trixie noble"`.

For each system it prints a row as docs/install.md has them: system, Python, result, seconds from
the first line to the answer, megabytes of `.venv`. Without names, all systems are tried. Needs root,
debootstrap, a package index, and 8 GB (if pip takes PyTorch's CUDA build) of one system after the
other; `--pip-cache` lets them share pip's downloads. Logs stay in `build/systems`.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
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
ANSWERED = re.compile(r"^\d+ tokens, the first after ", re.MULTILINE)


def first_lines() -> list[str]:
    """Return the commands of README's first block; the last one is to end after its answer."""
    text = (ROOT / "README.md").read_text()
    _, _, rest = text.partition("```sh\n")
    *lines, demo = rest.partition("```")[0].strip().splitlines()
    return [*lines, f"{demo} ARGS=--once"]


def tried(system: System, folder: Path, *, cache: Path | None, keep: bool) -> tuple[bool, str]:
    """Return whether the lines led to an answer, and the row."""
    chroot = Chroot(system, folder, cache=cache)
    log_file = folder / f"{system.suite}.log"
    with log_file.open("w") as log:
        chroot.make(log)
        began_s = time.monotonic()
        code = chroot.run("\n".join(first_lines()), log)
        seconds = time.monotonic() - began_s
    answered = code == 0 and ANSWERED.search(log_file.read_text()) is not None
    python = chroot.root / CHECKOUT / ".venv/bin/python"
    version = python.resolve().name.removeprefix("python") if python.is_symlink() else "none"
    result = "the demo's answer" if answered else f"FAILED ({code}): {log_file}"
    row = (
        f"| {system.title} | {version} | {result} | {seconds:.0f} | {chroot.megabytes('.venv'):,} |"
    )
    if not keep:
        chroot.remove()
    return answered, row


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(SYSTEMS)}; all if none is named")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/systems")
    parser.add_argument("--pip-cache", type=Path, help="a folder of pip's downloads, shared")
    parser.add_argument("--keep", action="store_true", help="leave the roots there")
    options = parser.parse_args()
    names: list[str] = options.systems or list(SYSTEMS)
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    check_rights()
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in names:
        good, row = tried(SYSTEMS[name], options.folder, cache=options.pip_cache, keep=options.keep)
        failed += not good
        print(row, flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
