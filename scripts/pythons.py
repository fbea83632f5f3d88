"""Run the unit tests on each Python of this machine that Penstock supports, but for that of `.venv`.

Usage: `python scripts/pythons.py [--whole] [--newest] [--own] [--jobs 4] [-- pytest's arguments]`. Each
has an environment of its own in `.venv-pythons`, kept for the next time. Without `--whole` it has no torch:
the tests of the API, the queue, the command line and the deployment run, and those that need torch
are left out. `--newest` tests the newest of them alone, for CI. `--own` tests the Python that runs this
script, alone. If there is no other Python, it reports that and ends well.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv-pythons"
LOCKS = ROOT / "scripts/locks"
CHECK = "import ensurepip, venv, sys; print(end='.'.join(map(str, sys.version_info[:2])))"
MODEL_TESTS = ("engine", "models")


def supported() -> list[str]:
    """Return the versions that have a lock, the oldest first."""
    return sorted((lock.stem for lock in LOCKS.glob("*.txt")), key=lambda name: int(name[2:]))


def candidates(version: str) -> list[str]:
    """Return where this version's interpreter may be: on PATH, of pyenv, of uv."""
    found = [path] if (path := shutil.which(f"python{version}")) else []
    roots = (
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python")),
    )
    for root in roots:
        found += map(str, sorted(root.glob(f"*{version}.*/bin/python{version}"), reverse=True))
    return found


def interpreter(version: str) -> str | None:
    """Return an interpreter that runs and can make environments."""
    for path in candidates(version):
        done = subprocess.run([path, "-c", CHECK], check=False, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout == version:
            return path
    return None


def prepared(version: str, python: str, *, whole: bool) -> Path:
    """Return the Python of an environment with what the tests need, made if it is not there."""
    folder = ENVIRONMENTS / (f"{version}-whole" if whole else version)
    lock = LOCKS / f"{version}.txt"
    described = lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    key = hashlib.sha256(described).hexdigest()
    stamp, made = folder / "penstock-setup.txt", folder / "bin/python"
    if stamp.exists() and stamp.read_text() == key:
        return made
    print(f"Python {version}: making {folder.relative_to(ROOT)} with {python}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(made), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
    what = ["-e", ".[demo,s3]", "--group", "dev"] if whole else ["-e", ".[client,server]"]
    what += [] if whole else ["--group", "unit"]
    index = os.environ.get("TORCH_INDEX_URL", "").strip()
    pip += ["--extra-index-url", index] if whole and index else []
    pip += ["--only-binary=:all:", "--no-binary=docopt", "--constraint", str(lock)]
    subprocess.run([*pip, *what], check=True, cwd=ROOT)
    stamp.write_text(key)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="with torch and the model libraries")
    parser.add_argument("--newest", action="store_true", help="the newest other Python alone")
    parser.add_argument("--own", action="store_true", help="the Python that runs this, alone")
    parser.add_argument("--jobs", default="2", help="tests that run at once")
    parser.add_argument("arguments", nargs="*", help="pytest's, after --")
    options = parser.parse_args()
    current = ".".join(map(str, sys.version_info[:2]))
    others = [version for version in supported() if version != current]
    found = {version: path for version in others if (path := interpreter(version)) is not None}
    if options.own:
        if current not in supported():
            parser.error(f"there are no locks for Python {current}")
        found = {current: sys.executable}
    if not found:
        print(f"only Python {current} is here, of {', '.join(supported())}: no other was tested")
        return 0
    if options.newest:
        left_out = [version for version in others if version in found][:-1]
        found = {version: found[version] for version in list(found)[-1:]}
        if left_out:
            print(f"Python {', '.join(left_out)} is here too and is not tested now")
    failed: list[str] = []
    for version, path in found.items():
        python = prepared(version, path, whole=options.whole)
        command = [str(python), "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
        command += ["--numprocesses", options.jobs, "tests/unit", *options.arguments]
        if not options.whole:
            command += [f"--ignore=tests/unit/{name}" for name in MODEL_TESTS]
        print(
            f"Python {version}: tests/unit{'' if options.whole else ' without torch'}", flush=True
        )
        if subprocess.run(command, check=False, cwd=ROOT).returncode != 0:
            failed.append(version)
    if failed:
        print(f"failed on Python {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
