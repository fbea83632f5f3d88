"""A Docker engine: the one that runs, or one of the tests' own, and its command lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BUILD_S = 3600.0
"""The longest time that one command may take: a worker's image downloads gigabytes."""
START_S = 180.0


class Docker:
    """The client's commands, with the environment that finds the engine."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __call__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
        """Run one command and return its output; a failure is the test's."""
        done = self.tried(*arguments, env=env)
        shown = (
            f"docker {' '.join(map(str, arguments))}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        )
        assert done.returncode == 0, shown
        return done.stdout.strip()

    def tried(
        self,
        *arguments: str | Path,
        timeout_s: float = BUILD_S,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, which may fail."""
        return subprocess.run(
            ["docker", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **self._environment, **(env or {})},
            timeout=timeout_s,
        )

    def inspect(self, name: str, template: str) -> str:
        """Return what `docker inspect --format` writes."""
        return self("inspect", "--format", template, name)

    def has(self, plugin: str) -> bool:
        """Return whether the client has this plugin, such as `compose`."""
        return self.tried(plugin, "version").returncode == 0


@contextmanager
def engine(folder: Path) -> Iterator[Docker]:
    """Yield the client of the engine that runs here, or of a new one that lives in `folder`."""
    if shutil.which("docker") is None:
        pytest.fail("there is no docker: apt install docker.io")
    docker = Docker({})
    if not docker.has("compose"):
        pytest.fail("docker has no compose: apt install docker-compose (2 or newer, in Debian 13)")
    if docker.tried("info", timeout_s=60).returncode == 0:
        yield docker
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.fail("no Docker engine answers, and none can be started here (root, dockerd)")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="docker-") as short,  # a socket's path has 107 bytes
        (folder / "dockerd.log").open("w") as log,
    ):
        socket = f"unix://{short}/docker.sock"
        docker = Docker({"DOCKER_HOST": socket})
        command = ["dockerd", "--host", socket, "--data-root", str(folder / "data")]
        command += ["--exec-root", f"{short}/exec", "--pidfile", f"{short}/dockerd.pid"]
        with subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                wait_until(lambda: answers(docker, server), START_S, poll_s=0.5)
                yield docker
            finally:
                server.terminate()
                server.wait(60)
                unmount_below(short)


def unmount_below(folder: str) -> None:
    """Take away the mounts that dockerd leaves, such as that of its network's namespace."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{folder}/"):
            subprocess.run(["umount", target], check=True)


def answers(docker: Docker, server: subprocess.Popen[bytes]) -> bool:
    """Return whether the engine that was started takes commands; fail if it has ended."""
    assert server.poll() is None, "dockerd has ended; its log is in the folder of the images"
    return docker.tried("info", timeout_s=60).returncode == 0
