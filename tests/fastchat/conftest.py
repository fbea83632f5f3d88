"""One fleet and FastChat's own programs on it, each in the environment that it runs in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fastchat.browser import Browser, missing
from tests.fixtures.models import write_tiny_llama
from tests.fixtures.processes import ROOT, Processes
from tests.fixtures.redis import RedisServer, find_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Running

MODEL = "tiny-llama"
API_ENVIRONMENT = ROOT / ".venv-fastchat-api" / "bin" / "python"
UI_ENVIRONMENT = ROOT / ".venv-fastchat" / "bin" / "python"


def python_of(environment: Path) -> str:
    """Return an environment's interpreter, or skip the test."""
    if not environment.exists():
        pytest.skip(f"no {environment.parents[1].name} (make test-fastchat makes it)")
    return str(environment)


class FastChat:
    """A fleet with one real worker and one real API, and FastChat's programs beside it."""

    def __init__(self, processes: Processes, redis_url: str, models_dir: Path) -> None:
        self.processes = processes
        self.redis_url = redis_url
        self.models_dir = models_dir
        self.worker = self.start_worker(wait=True)
        self.api = processes.start_api(
            redis_url,
            env={"PENSTOCK_KEEPALIVE_S": "0.5", "PENSTOCK_FASTCHAT_WORKER_HOSTS": "127.0.0.1"},
        )
        self._logs = models_dir.parent / "fastchat-logs"
        self._logs.mkdir()

    def start_worker(self, *, wait: bool) -> Running:
        self.worker = self.processes.start_worker(
            f"{MODEL}-cpu", self.redis_url, self.models_dir, wait=wait
        )
        return self.worker

    def start(self, python: Path, module: str, *arguments: str) -> Running:
        """Start one of FastChat's programs."""
        command = [python_of(python), "-m", f"fastchat.serve.{module}", *arguments]
        environment = {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
            "LOGDIR": str(self._logs),
            "PYTHONPATH": "",
            "PYTHONUNBUFFERED": "1",
        }
        return self.processes.start(module, command, environment, self._logs)

    def serve(self, python: Path, module: str, ready: str, *arguments: str) -> Running:
        """Start one that listens on a port of its own, and wait until it answers."""
        port = find_free_port()
        running = self.start(python, module, "--host", "127.0.0.1", "--port", str(port), *arguments)
        running.url = f"http://127.0.0.1:{port}"
        running.wait_until(lambda: _answers(f"{running.url}{ready}"))
        return running

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask our own API."""
        return httpx.post(f"{self.api.url}{path}", json=body, timeout=60.0).json()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10.0).status_code == 200
    except httpx.TransportError:
        return False


def write_talkative_llama(path: Path) -> None:
    """Write a tiny model that hardly ever ends its answer, some milliseconds a token."""
    import safetensors.torch

    write_tiny_llama(path, hidden_size=128, layers=6, context_length=4096)
    weights = safetensors.torch.load_file(path / "model.safetensors")
    weights["lm_head.weight"][:3] = 0.0  # the special tokens, ends among them
    safetensors.torch.save_file(weights, path / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="session")
def fastchat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastChat]:
    if not os.environ.get("PENSTOCK_TEST_FASTCHAT"):
        pytest.skip("takes minutes; make test-fastchat runs it")
    python_of(API_ENVIRONMENT)  # the web UI's is looked for by the tests that need it
    folder = tmp_path_factory.mktemp("fastchat")
    write_talkative_llama(folder / "models" / MODEL)
    server = RedisServer(folder)
    processes = Processes(folder)
    server.start()
    try:
        yield FastChat(processes, server.url, folder / "models")
    finally:
        processes.kill_all()
        server.kill()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if absent := missing():
        pytest.skip(absent)
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()
