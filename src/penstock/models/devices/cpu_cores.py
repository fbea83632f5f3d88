"""Chooses a worker's cores: all that it may use, some, a NUMA node, or a share of them.

A share consists of whole physical cores, neighbours by NUMA node and package, so that two workers
at `1/2` and `2/2` on a machine with two sockets get a socket each.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import BadSettings

SYSTEM = Path("/sys/devices/system")
_VARIABLE = "PENSTOCK_CORES"
_SHARE = re.compile(r"(\d+)/(\d+)")
_NODE = re.compile(r"node:(\d+)")
_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True, slots=True, order=True)
class Core:
    """A physical core, sorted in the order of shares; `cpus` are its hardware threads."""

    node: int
    package: int
    number: int
    cpus: tuple[int, ...]


def take(cores_: str) -> None:
    """Bind this process, with its present and future threads, to the cores of the setting.

    Does nothing if it is empty.

    :raises BadSettings: it names no cores, or some that the process may not use.
    """
    if not cores_:
        return
    cpus = chosen(cores_, physical())
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cpus)
        except ProcessLookupError:  # the thread ended meanwhile
            continue


def usable() -> int:
    """Return the physical cores that this process may use; hyperthreads gain nothing here."""
    return len(physical())


def physical(system: Path = SYSTEM) -> list[Core]:
    """Return the physical cores that this process may use, in the order of shares.

    If the kernel has no data about them (a container without /sys), every CPU counts as one.
    """
    allowed = os.sched_getaffinity(0)
    nodes = _nodes(system)
    cpus_of: dict[tuple[int, int, int], list[int]] = {}
    for cpu in sorted(allowed):
        topology = system / f"cpu/cpu{cpu}/topology"
        package = _number(topology / "physical_package_id", 0)
        core = (nodes.get(cpu, 0), package, _number(topology / "core_id", cpu))
        cpus_of.setdefault(core, []).append(cpu)
    return sorted(Core(*core, tuple(cpus)) for core, cpus in cpus_of.items())


def chosen(setting: str, cores: list[Core]) -> set[int]:
    """Return the CPUs that a setting names among `cores`: `0-7,16`, `node:1`, or `2/4`.

    :raises BadSettings: it has none of these forms, or names nothing that exists.
    """
    if match := _SHARE.fullmatch(setting):
        part, parts = int(match[1]), int(match[2])
        if not 1 <= part <= parts:
            raise BadSettings(f"{_VARIABLE}: {setting!r}: shares are counted from 1/{parts or 1}")
        if parts > len(cores):
            raise BadSettings(f"{_VARIABLE}: {setting!r}: there are only {len(cores)} cores")
        bounds = (len(cores) * (part - 1) // parts, len(cores) * part // parts)
        return {cpu for core in cores[slice(*bounds)] for cpu in core.cpus}
    usable_cpus = {cpu for core in cores for cpu in core.cpus}
    if match := _NODE.fullmatch(setting):
        node = {cpu for core in cores if core.node == int(match[1]) for cpu in core.cpus}
        if not node:
            raise BadSettings(
                f"{_VARIABLE}: {setting!r}: this process may use no core of that node"
            )
        return node
    if not _LIST.fullmatch(setting):
        raise BadSettings(
            f"{_VARIABLE}: {setting!r}: give a list (0-7,16), a NUMA node (node:0), or a share (1/2)"
        )
    listed = _listed(setting)
    if not listed or listed - usable_cpus:
        missing = ", ".join(map(str, sorted(listed - usable_cpus)[:4])) or "none named"
        raise BadSettings(f"{_VARIABLE}: {setting!r}: this process may not use CPU {missing}")
    return listed


def _nodes(system: Path) -> dict[int, int]:
    """Return the NUMA node of each CPU."""
    nodes: dict[int, int] = {}
    for folder in system.glob("node/node[0-9]*"):
        try:
            listed = _listed((folder / "cpulist").read_text().strip())
        except OSError:
            continue
        nodes.update(dict.fromkeys(listed, int(folder.name.removeprefix("node"))))
    return nodes


def _listed(text: str) -> set[int]:
    """Parse the kernel's notation: `0-3,8` names five CPUs."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _number(file: Path, otherwise: int) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return otherwise
