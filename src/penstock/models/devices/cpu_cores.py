"""Which cores a worker computes on: all that it may use, some, a NUMA node, or a share of them.

A share is of whole physical cores, neighbours by NUMA node and package, so that two workers at
`1/2` and `2/2` on a machine of two sockets get a socket each.
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
    """A physical core, in the order in which shares are cut; `cpus` are its hardware threads."""

    node: int
    package: int
    number: int
    cpus: tuple[int, ...]


def take(wish: str) -> None:
    """Bind this process, with the threads that it has and will have, to the cores of a wish.

    Nothing is done for an empty wish.

    :raises BadSettings: the wish names none, or cores that the process may not use.
    """
    if not wish:
        return
    cpus = chosen(wish, physical())
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cpus)
        except ProcessLookupError:  # it ended in between
            continue


def usable() -> int:
    """Physical cores that this process may use; two threads of a core gain nothing here."""
    return len(physical())


def physical(system: Path = SYSTEM) -> list[Core]:
    """The physical cores that this process may use, in the order of shares.

    Where the kernel tells nothing of them (a container without /sys), every CPU counts as one.
    """
    allowed = os.sched_getaffinity(0)
    nodes = _nodes(system)
    found: dict[tuple[int, int, int], list[int]] = {}
    for cpu in sorted(allowed):
        topology = system / f"cpu/cpu{cpu}/topology"
        package = _number(topology / "physical_package_id", 0)
        place = (nodes.get(cpu, 0), package, _number(topology / "core_id", cpu))
        found.setdefault(place, []).append(cpu)
    return sorted(Core(*place, tuple(cpus)) for place, cpus in found.items())


def chosen(wish: str, cores: list[Core]) -> set[int]:
    """The CPUs that a wish names among `cores`: `0-7,16`, `node:1`, or `2/4`.

    :raises BadSettings: it is none of these, or names nothing that there is.
    """
    if match := _SHARE.fullmatch(wish):
        part, parts = int(match[1]), int(match[2])
        if not 1 <= part <= parts:
            raise BadSettings(f"{_VARIABLE}: {wish!r}: shares are counted from 1/{parts or 1}")
        if parts > len(cores):
            raise BadSettings(f"{_VARIABLE}: {wish!r}: there are only {len(cores)} cores")
        bounds = (len(cores) * (part - 1) // parts, len(cores) * part // parts)
        return {cpu for core in cores[slice(*bounds)] for cpu in core.cpus}
    there = {cpu for core in cores for cpu in core.cpus}
    if match := _NODE.fullmatch(wish):
        node = {cpu for core in cores if core.node == int(match[1]) for cpu in core.cpus}
        if not node:
            raise BadSettings(f"{_VARIABLE}: {wish!r}: this process may use no core of that node")
        return node
    if not _LIST.fullmatch(wish):
        raise BadSettings(
            f"{_VARIABLE}: {wish!r}: it is a list (0-7,16), a NUMA node (node:0), or a share (1/2)"
        )
    listed = _listed(wish)
    if not listed or listed - there:
        missing = ", ".join(map(str, sorted(listed - there)[:4])) or "none named"
        raise BadSettings(f"{_VARIABLE}: {wish!r}: this process may not use CPU {missing}")
    return listed


def _nodes(system: Path) -> dict[int, int]:
    """The NUMA node of each CPU."""
    found: dict[int, int] = {}
    for folder in system.glob("node/node[0-9]*"):
        try:
            listed = _listed((folder / "cpulist").read_text().strip())
        except OSError:
            continue
        found.update(dict.fromkeys(listed, int(folder.name.removeprefix("node"))))
    return found


def _listed(text: str) -> set[int]:
    """The kernel's notation: `0-3,8` names five CPUs."""
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
