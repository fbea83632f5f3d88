"""`penstock up` and the commands beside it, with real processes and a tiny model."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from penstock.cli.fleet.command import up as up_command
from tests.fixtures.processes import Processes, Running, wait_until
from tests.fixtures.redis import find_free_port

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
MODEL = "tiny-llama"


class Up:
    """A `penstock up` in a folder of its own."""

    def __init__(self, processes: Processes, folder: Path, models_dir: Path) -> None:
        self._processes = processes
        self.folder = folder
        self.port = find_free_port()
        self.fastchat_port = 0
        # PENSTOCK_REDIS_URL stays away: this is about the Redis that `up` starts.
        self.env = {
            "OMP_NUM_THREADS": "1",
            "PENSTOCK_THREADS": "1",
            "PENSTOCK_MODELS_DIR": str(models_dir),
            "PENSTOCK_KV_CACHE_BYTES": str(32 * 2**20),
        }

    def start(self, *options: str) -> Running:
        command = [sys.executable, "-m", "penstock.cli", "up", "--queue", QUEUE]
        command += ["--port", str(self.port), "--fastchat-port", str(self.fastchat_port)]
        command += ["--redis-port", str(find_free_port()), *options]
        return self._processes.start("up", command, self.env, self.folder)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penstock.cli", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={**os.environ, **self.env},
        )

    def children(self, running: Running) -> dict[int, str]:
        """Return the commands of the live children of `up`, by process id."""
        found: dict[int, str] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == running.pid and fields[0] != "Z":
                    command = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(stat.parent.name)] = command
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found


@pytest.fixture
def up(
    tmp_path: Path, tiny_llama: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> Up:
    monkeypatch.delenv("PENSTOCK_REDIS_URL", raising=False)
    folder = tmp_path / "work"
    for name in ("api", "workers"):  # somebody's own packages, which are not to be started
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('not ours')")
    return Up(processes, folder, tiny_llama.parent)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fleet_from_start_to_end(up: Up) -> None:
    up.fastchat_port = find_free_port()
    running = up.start("--chat", "Say something.")
    running.wait_until(lambda: "Ctrl-C stops everything" in running.output())
    output = running.output()
    assert "is asked: Say something." in output
    assert re.search(r"\d+ tokens, the first after", output)
    assert f"http://127.0.0.1:{up.port}/v1/chat/completions" in output
    assert "export PENSTOCK_REDIS_URL=redis://127.0.0.1:" in output

    seen = json.loads(up.run("status", "--json").stdout)
    assert [queue["queue"] for queue in seen["queues"]] == [QUEUE]
    assert up.run("status", "--check", QUEUE).returncode == 0
    assert up.run("status", "--check", "other-cpu").returncode == 1
    listed = json.loads(up.run("models", "--json").stdout)
    assert [card["name"] for card in listed["served"]] == [MODEL]
    assert MODEL in [one["name"] for one in listed["local"]]

    answered = up.run("chat", "--max-tokens", "8", "Hello")
    assert answered.returncode == 0, answered.stderr
    unknown = up.run("chat", "--model", "no-such-model", "Hello")
    assert unknown.returncode == 1
    assert "no-such-model" in unknown.stderr
    assert "Traceback" not in unknown.stderr

    as_fastchats_programs_find_it(f"http://127.0.0.1:{up.fastchat_port}")

    load = ["--requests", "6", "--answer-tokens", "4:8", "--prompt-words", "3", "--json", "-"]
    for shape in (("--concurrency", "3"), ("--rate", "50")):
        report = json.loads(up.run("bench", *shape, *load).stdout)["report"]
        assert report["completed"] == 6
        assert report["errors"] == {}
        assert 24 <= report["output_tokens"] <= 48
        assert report["ttft_ms"]["p50"] > 0

    second = up.run("up", "--queue", QUEUE)
    assert second.returncode == 1
    assert "already runs in this folder" in second.stderr

    children = up.children(running)
    assert len(children) == 4
    running.send(signal.SIGINT)
    assert running.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert up.run("status").returncode == 1


def as_fastchats_programs_find_it(url: str) -> None:
    """The controller's port is FastChat's unless another is asked for, and a worker's as well."""
    assert inspect.signature(up_command).parameters["fastchat_port"].default == 21001
    assert httpx.get(f"{url}/test_connection").json() == "success"
    assert httpx.post(f"{url}/list_models").json() == {"models": [MODEL]}
    asked = {"model": MODEL, "prompt": "Hello", "max_new_tokens": 4}
    assert httpx.post(f"{url}/get_worker_address", json=asked).json() == {"address": url}
    answer = httpx.post(f"{url}/worker_generate", json=asked, timeout=60.0).json()
    assert answer["error_code"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_comes_back_and_a_killed_up_leaves_nothing(up: Up) -> None:
    running = up.start("--chat", "")
    running.wait_until(lambda: "Ctrl-C stops everything" in running.output())
    before = up.children(running)
    worker = next(pid for pid, command in before.items() if " worker " in command)
    os.kill(worker, signal.SIGKILL)
    running.wait_until(lambda: "started again" in running.output())
    assert f"worker-{QUEUE} was ended by SIGKILL" in running.output()
    wait_until(lambda: len(up.children(running)) == 3)
    children = up.children(running)
    running.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_a_worker_that_cannot_start_ends_it_with_its_line(up: Up, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    up.env["PENSTOCK_MODELS_DIR"] = str(tmp_path)
    command = ("up", "--queue", "broken-cpu", "--port", str(up.port), "--fastchat-port", "0")
    done = up.run(*command)
    assert done.returncode == 1
    assert "worker-broken-cpu ended with exit code" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", up.port))
        taken.listen()
        done = up.run("up", "--queue", QUEUE, "--port", str(up.port))
        assert done.returncode == 1
        assert f"port {up.port} for the API is taken" in done.stderr
        assert f"process {os.getpid()}" in done.stderr
        assert "--port" in done.stderr
