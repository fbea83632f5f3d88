"""Redis, workers and the API of a benchmark, as `penstock up` starts them, in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.conditions import ROOT
from penstock.cli.fleet import redis_server
from penstock.cli.fleet.child import Child
from penstock.cli.fleet.supervisor import Supervisor, describe_end

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_START_S = 300.0


@dataclass
class Stack:
    """A running Redis and API, and what was started beside them."""

    redis_url: str
    api_url: str
    folder: Path
    environment: dict[str, str]
    redis: Child
    api: Child
    supervisor: Supervisor = field(default_factory=lambda: Supervisor(print))

    def start(self, name: str, *command: str) -> Child:
        """Start a further process with the stack's environment."""
        child = Child(name, [sys.executable, *command], self.folder, self.environment)
        self.supervisor.start_tier(child)
        return child

    def start_worker(self, application: str, queue: str) -> Child:
        """Start a Celery worker and wait until the API lists the queue's model."""
        child = self.start("worker", "-m", "celery", "-A", application, "worker", "-Q", queue)
        model = queue.rsplit("-", 1)[0]
        self.wait_until(lambda: model in self.models())
        return child

    def models(self) -> set[str]:
        """Return the names that the API lists."""
        listed = _get_json(f"{self.api_url}/v1/models")
        return {one["id"] for one in listed["data"]} if listed else set()

    def wait_until(self, ready: Callable[[], Any]) -> None:
        """Poll; a process that ends meanwhile ends the benchmark with its last lines."""
        end = time.monotonic() + _START_S
        while not ready():
            for child in self.supervisor.dead():
                raise SystemExit("\n".join([describe_end(child), *child.tail(20)]))
            if time.monotonic() > end:
                raise SystemExit(f"not ready after {_START_S:.0f} s; logs in {self.folder}")
            time.sleep(0.1)


@contextmanager
def running(api_processes: int = 1, **settings: str) -> Generator[Stack]:
    """Start Redis (append-only, as in production) and the API; end them afterwards.

    `settings` are named like the variables: `PENSTOCK_SLOTS="64"`.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    redis_port, api_port = free_port(), free_port()
    redis = redis_server.make_child(redis_port, folder, folder)
    redis_url, api_url = f"redis://127.0.0.1:{redis_port}/0", f"http://127.0.0.1:{api_port}"
    environment = {
        "PENSTOCK_REDIS_URL": redis_url,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    command = [sys.executable, "-m", "uvicorn", "api:app", "--port", str(api_port)]
    command += ["--workers", str(api_processes)] if api_processes > 1 else []
    api = Child("api", [*command, "--log-level", "warning", "--no-access-log"], folder, environment)
    stack = Stack(redis_url, api_url, folder, environment, redis, api)
    try:
        stack.supervisor.start_tier(redis)
        stack.supervisor.start_tier(api)
        stack.wait_until(lambda: _get_json(f"{api_url}/v1/models") is not None)
        yield stack
    finally:
        stack.supervisor.stop_all(hurry=lambda: False)
        shutil.rmtree(folder)


def _get_json(url: str) -> Any:
    try:
        answer = httpx.get(url, timeout=5.0)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
