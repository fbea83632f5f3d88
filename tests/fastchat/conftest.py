"""One fleet and FastChat's own programs on it, each in the environment that it runs in."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fastchat.browser import Browser, missing
from tests.fastchat.programs import WANTED
from tests.fixtures.models import write_tiny_llama
from tests.fixtures.processes import Processes, _common
from tests.fixtures.redis import RedisServer, find_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.fastchat.programs import Environment
    from tests.fixtures.processes import Running

MODEL = "tiny-llama"


class FastChat:
    """A fleet with one real worker and one real API, and FastChat's programs beside it."""

    def __init__(
        self,
        processes: Processes,
        redis_url: str,
        models_dir: Path,
        *,
        model: str = MODEL,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.processes = processes
        self.redis_url = redis_url
        self.models_dir = models_dir
        self.model = model
        self.worker = self.start_worker(wait=True)
        self.api = processes.start_api(
            redis_url,
            env={
                "PENSTOCK_KEEPALIVE_S": "0.5",
                "PENSTOCK_FASTCHAT_WORKER_HOSTS": "127.0.0.1",
                **(env or {}),
            },
        )
        self._logs = models_dir.parent / "fastchat-logs"
        self._logs.mkdir(exist_ok=True)

    def start_worker(self, *, wait: bool) -> Running:
        self.worker = self.processes.start_worker(
            f"{self.model}-cpu", self.redis_url, self.models_dir, wait=wait
        )
        return self.worker

    def start(self, environment: Environment, module: str, *arguments: str) -> Running:
        """Start one of FastChat's programs."""
        return self.run(environment, "-m", f"fastchat.serve.{module}", *arguments, name=module)

    def run(self, environment: Environment, *arguments: str, name: str) -> Running:
        """Start Python with FastChat's library."""
        found = environment.found()
        variables = {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
            "LOGDIR": str(self._logs),
            "PYTHONPATH": str(found.library or ""),
            "PYTHONUNBUFFERED": "1",
        }
        return self.processes.start(name, [str(found.python), *arguments], variables, self._logs)

    def serve(
        self,
        environment: Environment,
        module: str,
        ready: str,
        *arguments: str,
        port: int | None = None,
    ) -> Running:
        """Start one that listens on a port, and wait until it answers."""
        port = port or find_free_port()
        at = ("--host", "127.0.0.1", "--port", str(port))
        running = self.start(environment, module, *at, *arguments)
        running.url = f"http://127.0.0.1:{port}"
        running.wait_until(lambda: _answers(f"{running.url}{ready}"))
        return running

    def join(self, controller: Running) -> Running:
        """Start one more API of the fleet, which joins a real controller as one worker."""
        port = find_free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", "api:app", "--port", str(port)]
        api = self.processes.start(
            "joined-api",
            [*command, "--log-level", "warning"],
            {
                **_common(self.redis_url),
                "PENSTOCK_FASTCHAT_CONTROLLER": controller.url,
                "PENSTOCK_PUBLIC_URL": url,
                "PENSTOCK_FASTCHAT_HEARTBEAT_S": "1",
            },
        )
        api.url = url
        return api

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask our own API."""
        return httpx.post(f"{self.api.url}{path}", json=body, timeout=60.0).json()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10.0).status_code == 200
    except httpx.TransportError:
        return False


def write_talkative_llama(path: Path, *, context_length: int = 4096) -> None:
    """Write a tiny model that hardly ever ends its answer, some milliseconds a token.

    FastChat's worker wants a `factor` wherever Transformers 5 has its new `rope_parameters`.
    """
    import safetensors.torch

    write_tiny_llama(path, hidden_size=128, layers=16, context_length=context_length)
    weights = safetensors.torch.load_file(path / "model.safetensors")
    weights["lm_head.weight"][:3] = 0.0  # the special tokens, ends among them
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 1.0}
    (path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(weights, path / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="session")
def fastchat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastChat]:
    if not WANTED:
        pytest.skip("takes minutes; make test-fastchat-api or make test-fastchat runs it")
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
