"""Facts about this machine, found with as few libraries as possible."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

TESTED_PYTHONS = ((3, 11), (3, 14))
_KIB = 1024


@dataclass(frozen=True)
class Cpu:
    """The processor as Linux describes it; `cores` are those that this process may use."""

    name: str
    cores: int
    flags: frozenset[str]


@dataclass(frozen=True)
class Accelerator:
    """A torch device other than the CPU; `kind` is its name in a queue."""

    kind: str
    name: str
    memory_bytes: int = 0


@dataclass(frozen=True)
class Room:
    """A device as queues name it, and its total memory in bytes."""

    device: str
    memory_bytes: int


_GPU_FILES = ("/dev/dri", "/dev/nvidia0")


def rooms() -> tuple[Room, ...]:
    """Return this machine's devices; imports torch only if there may be a GPU."""
    devices = [Room("cpu", memory_bytes()[0])]
    if any(Path(file).exists() for file in _GPU_FILES):
        with contextlib.suppress(ImportError):
            devices += [
                Room(accelerator.kind, accelerator.memory_bytes) for accelerator in accelerators()
            ]
    return tuple(devices)


def cpu() -> Cpu:
    """Return the facts in `/proc/cpuinfo`; without it, only the number of cores."""
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
    """Return (total, available) memory; zeros if the system does not report it."""
    values: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, value = line.split(":")
            values[name] = int(value.split()[0]) * _KIB
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


def python_version() -> str:
    """Return the interpreter's version, with a remark if it is not a tested one."""
    version = platform.python_version()
    oldest, newest = (".".join(map(str, version_)) for version_ in TESTED_PYTHONS)
    if TESTED_PYTHONS[0] <= sys.version_info[:2] <= TESTED_PYTHONS[1]:
        return version
    return f"{version} (tested with {oldest} to {newest})"


def version_of(package: str) -> str | None:
    """Return an installed package's version without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def accelerators() -> list[Accelerator]:
    """Return torch's devices; this imports torch.

    :raises ImportError: torch is not installed or does not load.
    """
    torch: Any = importlib.import_module("torch")
    devices: list[Accelerator] = []
    for kind in ("xpu", "cuda"):
        device = getattr(torch, kind, None)
        if device is not None and device.is_available():
            devices += [
                Accelerator(
                    kind,
                    str(device.get_device_name(index)),
                    int(device.get_device_properties(index).total_memory),
                )
                for index in range(device.device_count())
            ]
    return devices
