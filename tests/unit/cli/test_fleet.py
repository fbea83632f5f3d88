"""Children, ports, Redis and the supervisor, with small real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.cli import running
from penstock.cli.fleet import ports, redis_server
from penstock.cli.fleet.child import Child
from penstock.cli.fleet.supervisor import Supervisor
from penstock.errors import StartupError
from tests.fixtures.processes import wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN_CODE = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
STUBBORN = [sys.executable, "-c", STUBBORN_CODE]


def never() -> bool:
    return False


def started(supervisor: Supervisor, *children: Child) -> None:
    supervisor.start_tier(*children)
    for child in children:
        wait_until(child.tail)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_tiers_end_last_started_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    first, second = Child("first", SLEEPER, tmp_path), Child("second", SLEEPER, tmp_path)
    started(supervisor, first)
    started(supervisor, second)
    asked: list[tuple[str, list[str]]] = []
    send = Child.send

    def noted(child: Child, number: signal.Signals) -> None:
        asked.append((child.name, [one.name for one in (first, second) if one.running()]))
        send(child, number)

    monkeypatch.setattr(Child, "send", noted)
    supervisor.stop_all(hurry=never)
    assert asked == [("second", ["first", "second"]), ("first", ["first"])]
    assert not first.running()
    assert said == []


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = Child("stubborn", STUBBORN, tmp_path, patience_s=0.2)
    started(supervisor, child)
    supervisor.stop_all(hurry=never)
    assert child.exit_code() == -signal.SIGKILL
    assert said == ["stubborn: did not end in time, killed"]


def test_hurry_kills_at_once(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    child = Child("stubborn", STUBBORN, tmp_path, patience_s=600)
    started(supervisor, child)
    supervisor.stop_all(hurry=lambda: True)
    assert child.exit_code() == -signal.SIGKILL


def test_a_child_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = Child("worker", SLEEPER, tmp_path)
    started(supervisor, child)
    try:
        assert child.process is not None
        child.process.kill()
        wait_until(lambda: child.exit_code() is not None)
        supervisor.keep_running()
        assert said[0] == "worker was ended by SIGKILL; starts again in 1 s"
        assert not child.running()
        wait_until(lambda: supervisor.keep_running() or child.running())
        assert said[-1] == "worker: started again"
    finally:
        supervisor.stop_all(hurry=never)


def test_restarts_wait_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = Child("worker", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    supervisor.start_tier(child)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(7):
        assert child.process is not None
        child.process.wait()
        supervisor.keep_running()  # notices the end
        now += 40.0
        supervisor.keep_running()  # starts it again
    delays = [line.rsplit("in ", 1)[1] for line in said if "exit code 3" in line]
    assert delays == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s"]
    supervisor.stop_all(hurry=never)


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from penstock.cli.fleet.child import Child;"
        f"child = Child('orphan', {STUBBORN!r}, Path({str(tmp_path)!r}));"
        "child.start(); print(child.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: "up" in (tmp_path / "orphan.log").read_text())
        parent.kill()
        parent.wait()
        wait_until(lambda: not is_alive(pid))


def test_tail_counts_a_redrawn_line_once(tmp_path: Path) -> None:
    child = Child("bar", [], tmp_path)
    child.log_path.write_bytes(b"one\n 1 %\r 2 %\r 3 %\n\n")
    assert child.tail(2) == ["one", " 3 %"]
    child.rotate_log()
    assert child.tail() == []


def test_a_taken_port_names_its_holder() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
        assert f"process {os.getpid()}" in ports.holder(port)
        with pytest.raises(StartupError, match=f"port {port} for Redis is taken.*--redis-port"):
            redis_server.choose_port(port)
        assert ports.next_free("127.0.0.1", port) != port
    assert ports.is_free("127.0.0.1", port)
    assert ports.holder(port) == ""


def test_redis_keeps_its_files_by_version(tmp_path: Path) -> None:
    child = redis_server.make_child(1234, tmp_path, tmp_path)
    folder = Path(child.command[child.command.index("--dir") + 1])
    kind, version = redis_server.version_of(child.command[0])
    assert folder == tmp_path / "redis" / f"{kind}-{version.split('.')[0]}"
    assert folder.is_dir()


def test_a_folder_holds_one_fleet_and_names_its_address(tmp_path: Path) -> None:
    addresses = running.Addresses(7, "redis://127.0.0.1:1/0", "http://127.0.0.1:2")
    with running.hold_folder(tmp_path):
        assert running.find(tmp_path) is None
        running.announce(addresses, tmp_path)
        assert running.find(tmp_path) == addresses
        with (
            pytest.raises(StartupError, match=r"process 7, http://127.0.0.1:2"),
            running.hold_folder(tmp_path),
        ):
            pass
    assert running.find(tmp_path) is None


def test_what_is_left_by_a_killed_fleet_is_not_believed(tmp_path: Path) -> None:
    with running.hold_folder(tmp_path):
        pass
    running.announce(running.Addresses(7, "redis://127.0.0.1:1/0", "http://x"), tmp_path)
    assert running.find(tmp_path) is None
