"""Lists, NUMA nodes and shares of cores, on machines that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from penstock.errors import BadSettings
from penstock.models.devices import cpu_cores

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[cpu_cores.Core]:
    """Two sockets, a NUMA node each, two cores a node, two threads a core: 0-3, siblings 4-7."""
    for cpu in range(8):
        topology = tmp_path / f"cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(str(cpu % 4 // 2))
        (topology / "core_id").write_text(str(cpu % 2))
    for node, listed in enumerate(("0-1,4-5", "2-3,6-7")):
        (tmp_path / f"node/node{node}").mkdir(parents=True)
        (tmp_path / f"node/node{node}/cpulist").write_text(listed + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return cpu_cores.physical(tmp_path)


@pytest.mark.parametrize(
    ("wish", "cpus"),
    [
        ("1/2", {0, 1, 4, 5}),
        ("2/2", {2, 3, 6, 7}),
        ("2/4", {1, 5}),
        ("1/3", {0, 4}),
        ("3/3", {2, 3, 6, 7}),
        ("node:1", {2, 3, 6, 7}),
        ("0-1,7", {0, 1, 7}),
    ],
)
def test_a_wish_names_cpus(machine: list[cpu_cores.Core], wish: str, cpus: set[int]) -> None:
    assert len(machine) == 4
    assert cpu_cores.chosen(wish, machine) == cpus


def test_the_shares_of_a_machine_are_all_of_it_and_never_meet(
    machine: list[cpu_cores.Core],
) -> None:
    for parts in (1, 2, 3, 4):
        shares = [cpu_cores.chosen(f"{part}/{parts}", machine) for part in range(1, parts + 1)]
        assert sorted(cpu for share in shares for cpu in share) == list(range(8))


@pytest.mark.parametrize("wish", ["0/2", "3/2", "1/5", "1/0", "node:2", "8", "3-1", "half", "-1"])
def test_a_wish_that_cannot_be_met_names_the_variable(
    machine: list[cpu_cores.Core], wish: str
) -> None:
    with pytest.raises(BadSettings, match="PENSTOCK_CORES"):
        cpu_cores.chosen(wish, machine)


def test_without_the_kernels_word_every_cpu_is_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    assert [core.cpus for core in cpu_cores.physical(tmp_path / "none")] == [(0,), (3,)]


def test_the_whole_process_is_bound_and_its_later_threads_too() -> None:
    code = """
import os, threading
from penstock.models.devices import cpu_cores
gate = threading.Event()
early = threading.Thread(target=gate.wait)
early.start()
first = cpu_cores.physical()[0].cpus
cpu_cores.take(",".join(map(str, first)))
late = threading.Thread(target=gate.wait)
late.start()
bound = {tuple(sorted(os.sched_getaffinity(int(t)))) for t in os.listdir("/proc/self/task")}
gate.set()
assert bound == {first}, bound
assert cpu_cores.usable() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
