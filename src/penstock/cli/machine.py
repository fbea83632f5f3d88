"""Facts about this machine, with as few libraries as they need."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_KIB = 1024


@dataclass(frozen=True)
class Cpu:
    """The processor as Linux describes it; `cores` are those that this process may use."""

    name: str
    cores: int
    flags: frozenset[str]


@dataclass(frozen=True)
class Accelerator:
    """A device of torch beside the CPU; `kind` is its name in a queue."""

    kind: str
    name: str
    memory_bytes: int = 0


@dataclass(frozen=True)
class Room:
    """A device as a queue names it, and all of its memory."""

    device: str
    memory_bytes: int


_GPU_FILES = ("/dev/dri", "/dev/nvidia0")


def rooms() -> tuple[Room, ...]:
    """Return this machine's devices; torch is asked only where there may be a GPU."""
    found = [Room("cpu", memory_bytes()[0])]
    if any(Path(file).exists() for file in _GPU_FILES):
        with contextlib.suppress(ImportError):
            found += [Room(one.kind, one.memory_bytes) for one in accelerators()]
    return tuple(found)


def cpu() -> Cpu:
    """Read `/proc/cpuinfo`; without it only the cores are known."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return Cpu(
        name=fields.get("model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        flags=frozenset(fields.get("flags", "").split()),
    )


def memory_bytes() -> tuple[int, int]:
    """Return total and available memory; zeros where the system does not tell."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, value = line.split(":")
            found[name] = int(value.split()[0]) * _KIB
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)


def python_version() -> str:
    """Return the interpreter's version, and whether it is the tested one."""
    version = platform.python_version()
    return version if version.startswith("3.11.") else f"{version} (tested with 3.11)"


def version_of(package: str) -> str | None:
    """Return an installed package's version without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def accelerators() -> list[Accelerator]:
    """Ask torch for its devices; this imports torch.

    :raises ImportError: torch is not installed or does not load.
    """
    torch: Any = importlib.import_module("torch")
    found: list[Accelerator] = []
    for kind in ("xpu", "cuda"):
        device = getattr(torch, kind, None)
        if device is not None and device.is_available():
            found += [
                Accelerator(
                    kind,
                    str(device.get_device_name(index)),
                    int(device.get_device_properties(index).total_memory),
                )
                for index in range(device.device_count())
            ]
    return found
