"""Free ports, and the owners of the others."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

_LISTEN = "0A"
_SEARCHED = 100


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def next_free(host: str, port: int) -> int | None:
    """Return the first free port among the hundred from `port` on; None if there is none."""
    candidates = range(port, min(port + _SEARCHED, 65_536))
    return next((port_ for port_ in candidates if is_free(host, port_)), None)


def holder(port: int) -> str:
    """Return who listens on a local port, in the form ` (redis-server, process 7)`.

    "" if that is unknown (another user's process, no /proc).
    """
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for handle in (process / "fd").iterdir():
                if handle.readlink().name in inodes:
                    name = (process / "comm").read_text().strip()
                    return f" ({name}, process {process.name})"
    return ""


def _listening_inodes(port: int) -> set[str]:
    """Return the `socket:[inode]` names of the sockets that listen on a port."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes
