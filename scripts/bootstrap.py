"""Make `.venv` ready for Penstock, with the standard library alone.

Usage: `python scripts/bootstrap.py demo|dev`. `demo` is everything for serving on this machine,
`dev` adds the tests' and linters' packages. A stamp inside `.venv` records what is installed, so a
second run takes a moment. A marker next to it means that pip is running: a run that finds one knows
that the earlier installation was interrupted, and starts over (pip's cache keeps the downloads).

pip's own configuration applies (pip.conf, PIP_INDEX_URL, PIP_FIND_LINKS, ...). TORCH_INDEX_URL, if
set, is one more index for torch alone, and has no effect once torch is installed.
PENSTOCK_BUILD_NATIVE selects the compiler of the native kernels (see build.py next to them).

All packages are installed in the versions of `scripts/locks/<python>.txt`. PENSTOCK_LOCK=off takes
the newest that pyproject.toml allows instead. PENSTOCK_VENV names another folder than `.venv`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / os.environ.get("PENSTOCK_VENV", ".venv")
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "penstock-setup.json"
MARKER = VENV / "penstock-setup.unfinished"
STATE = ROOT / ".penstock"
LOG = STATE / "logs" / "setup.log"

KERNELS = ROOT / "src/penstock/models/backends/native/kernels"
LOCKS = ROOT / "scripts/locks"
SYSTEM_PYTHON = "/usr/bin/python3"
MINIMUM_PIP = "pip>=25.1"  # the first that knows dependency groups
# Wheels only: nothing needs a compiler, and a missing wheel is reported at once. docopt, which
# num2words brings, has none, and is one file of Python.
WHEELS = ("--only-binary=:all:", "--no-binary=docopt")
GIB = 1024**3
NEEDED_BYTES = 3 * GIB
NEEDED_CUDA_BYTES = 12 * GIB
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

PROFILES = {"demo": ["-e", ".[demo]"], "dev": ["-e", ".[demo]", "--group", "dev"]}
COVERED_BY = {"demo": {"demo", "dev"}, "dev": {"dev"}}


class SetupError(Exception):
    """The setup cannot continue; the message is for the user."""


@dataclass(frozen=True)
class Plan:
    """The packages to install. `key` changes with them and with the interpreter."""

    profile: str
    torch: str
    key: str

    @classmethod
    def make(cls, profile: str) -> Plan:
        """Read the pinned torch from pyproject.toml and compute the key."""
        text = (ROOT / "pyproject.toml").read_bytes()
        worker = tomllib.loads(text.decode())["project"]["optional-dependencies"]["worker"]
        torch = next(line for line in worker if line.startswith("torch=="))
        basis = json.dumps([sys.version, str(ROOT), os.environ.get("PENSTOCK_BUILD_NATIVE")])
        locked = [lock] if (lock := lock_file()) else []
        text += b"".join(file.read_bytes() for file in [*locked, *native_sources()])
        return cls(profile, torch, hashlib.sha256(text + basis.encode()).hexdigest())

    def done(self) -> bool:
        """Return whether the stamp records this plan, or a larger one, as installed."""
        if not VENV_PYTHON.exists() or MARKER.exists():
            return False
        with contextlib.suppress(OSError, ValueError):
            stamp = json.loads(STAMP.read_text())
            return stamp["key"] == self.key and stamp["profile"] in COVERED_BY[self.profile]
        return False


def short_version() -> str:
    """Return this Python's version as `3.13`."""
    return ".".join(map(str, sys.version_info[:2]))


def lock_file() -> Path | None:
    """Return the versions for this Python; None if they are turned off or there are none."""
    lock = LOCKS / f"{short_version()}.txt"
    return lock if os.environ.get("PENSTOCK_LOCK") != "off" and lock.exists() else None


def native_sources() -> list[Path]:
    """Return the files that the build hook compiles, and the hook."""
    return [
        *ROOT.glob("hatch_build.py"),
        *sorted(file for file in KERNELS.rglob("*") if file.suffix in (".cpp", ".h", ".py")),
    ]


def say(text: str) -> None:
    print(f"penstock setup: {text}", flush=True)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the setup's lock; the system releases it when this process ends, however that happens."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is running in this checkout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_interpreter() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    locked = sorted((lock.stem for lock in LOCKS.glob("*.txt")), key=lambda name: int(name[2:]))
    if short_version() not in locked:
        say(f"Python {version} is used; Penstock is tested with {', '.join(locked)}")
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"Python {version} lacks the module {' and '.join(missing)}, without which there is no "
            f"environment with pip in it. On Debian or Ubuntu: sudo apt install {venv_package()}"
        )


def venv_package() -> str:
    """Return the name of Debian's package that has what `python -m venv` needs."""
    code = "import sys; print(end='.'.join(map(str, sys.version_info[:2])))"
    default = ""
    with contextlib.suppress(OSError):
        asked = [SYSTEM_PYTHON, "-c", code]
        default = subprocess.run(asked, check=False, capture_output=True, text=True).stdout
    return "python3-venv" if short_version() == default else f"python{short_version()}-venv"


def check_disk(needed: int, what: str) -> None:
    free = shutil.disk_usage(ROOT).free
    if free < needed:
        raise SetupError(
            f"{free / GIB:.1f} GiB are free under {ROOT}, {what} takes up to "
            f"{needed / GIB:.0f} GiB. Free some space and run this again."
        )


def make_venv() -> None:
    """Create the environment, unless there is a working one."""
    if MARKER.exists():
        say("an earlier installation was interrupted; creating the environment again")
        shutil.rmtree(VENV)
    elif VENV.exists() and not pip_works():
        say(f"the environment in {VENV.name} does not work; creating it again")
        shutil.rmtree(VENV)
    if VENV_PYTHON.exists():
        if interpreter_of(VENV) == sys.version:
            return
        say(f"the environment in {VENV.name} belongs to another Python; creating it again")
        shutil.rmtree(VENV)
    VENV.mkdir()
    MARKER.write_text("venv")
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if made.returncode != 0:
        raise SetupError("python -m venv failed; see the lines above")
    MARKER.unlink()


def interpreter_of(venv: Path) -> str:
    asked = [str(venv / "bin" / "python"), "-c", "import sys; print(end=sys.version)"]
    return subprocess.run(asked, check=False, capture_output=True, text=True).stdout


def pip_works() -> bool:
    with contextlib.suppress(OSError):
        asked = [str(VENV_PYTHON), "-m", "pip", "--version"]
        return subprocess.run(asked, check=False, capture_output=True).returncode == 0
    return False


def pip_install(*arguments: str) -> None:
    """Run pip in the environment, its output on the terminal and in the log.

    While it runs, the marker exists. pip undoes its own failures, so the marker goes when pip ends
    by itself, well or not; it stays when pip or this process is killed.
    """
    progress = "on" if sys.stdout.isatty() else "off"
    command = [str(VENV_PYTHON), "-m", "pip", "install", "--no-input", "--progress-bar", progress]
    command += ["--disable-pip-version-check", *WHEELS, "--log", str(LOG), *arguments]
    MARKER.write_text(" ".join(arguments))
    code = subprocess.run(command, check=False, cwd=ROOT).returncode
    if code < 0:
        raise SetupError(f"pip was ended by signal {-code}; run this again to repair")
    MARKER.unlink()
    if code > 0:
        raise SetupError(
            f"pip could not install {' '.join(arguments)}; the lines above and {LOG.name} in "
            f"{LOG.parent.relative_to(ROOT)} state the reason. Run this again to continue."
        )


def has_torch(requirement: str) -> bool:
    wanted = requirement.partition("==")[2]
    code = "import importlib.metadata as m; print(end=m.version('torch').split('+')[0])"
    asked = subprocess.run([str(VENV_PYTHON), "-c", code], check=False, capture_output=True)
    return asked.stdout.decode() == wanted


def torch_index() -> list[str]:
    url = os.environ.get("TORCH_INDEX_URL", "").strip()
    return ["--extra-index-url", url] if url else []


def brings_cuda(requirement: str) -> bool:
    """Return whether pip, as configured, would fetch NVIDIA's libraries along with torch."""
    command = [str(VENV_PYTHON), "-m", "pip", "install", "--dry-run", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", *WHEELS, "--report", "-"]
    asked = subprocess.run(
        [*command, *torch_index(), requirement], check=False, capture_output=True, text=True
    )
    with contextlib.suppress(ValueError, KeyError):
        planned = json.loads(asked.stdout)["install"]
        return any(one["metadata"]["name"].startswith(("nvidia-", "cuda-")) for one in planned)
    return False  # pip's own error shows when it installs


def install_torch(requirement: str) -> None:
    if has_torch(requirement):
        return
    if brings_cuda(requirement):
        check_disk(NEEDED_CUDA_BYTES, "torch with CUDA")
        if not Path("/proc/driver/nvidia").exists():
            say("this torch brings gigabytes of CUDA libraries, and no NVIDIA GPU is seen here;")
            say(f"for the CPU build, stop this and run: TORCH_INDEX_URL={CPU_INDEX} make demo")
    pip_install(*torch_index(), requirement)


def install(plan: Plan) -> None:
    check_interpreter()
    check_disk(NEEDED_BYTES, "the install")
    LOG.parent.mkdir(parents=True, exist_ok=True)
    if VENV.exists() and not STAMP.exists() and not MARKER.exists():
        say(f"{VENV.name} has an unfinished installation; continuing it")
    say("[1/4] virtual environment")
    make_venv()
    STAMP.unlink(missing_ok=True)
    say("[2/4] pip")
    pip_install("--quiet", "--upgrade", MINIMUM_PIP)
    say(f"[3/4] {plan.torch}")
    install_torch(plan.torch)
    say(f"[4/4] Penstock and its libraries ({plan.profile})")
    lock = lock_file()
    constraints = ["--constraint", str(lock)] if lock else ["--upgrade"]
    pip_install(*constraints, *PROFILES[plan.profile])
    STAMP.write_text(json.dumps({"key": plan.key, "profile": plan.profile}))


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main() -> int:
    profile = sys.argv[1] if len(sys.argv) > 1 else "demo"
    if profile not in PROFILES:
        say(f"unknown profile {profile!r}; there are {', '.join(PROFILES)}")
        return 2
    began = time.monotonic()
    try:
        with only_one():
            plan = Plan.make(profile)
            if plan.done():
                return 0
            install(plan)
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.strerror or error}: {error.filename or ROOT}")
        return 1
    except KeyboardInterrupt:
        say("stopped; run it again to continue")
        return 130
    megabytes = size_of(VENV) / 1e6
    say(f"done in {time.monotonic() - began:.0f} s, {megabytes:.0f} MB in {VENV.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
