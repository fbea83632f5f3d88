"""Other servers as processes: llama.cpp's, and FastChat with bigdl-llm's worker."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

_START_S = 240.0
Peer = AbstractContextManager[str]


def llama_cpp(chosen: argparse.Namespace, folder: Path, streams: int) -> Peer | str:
    """llama.cpp's own server with a slot a stream, or why it is skipped."""
    del folder
    if not (chosen.llama_server and chosen.gguf):
        return "llama.cpp's server (--llama-server, --gguf)"
    port = _free_port()
    command = [chosen.llama_server, "-m", chosen.gguf, "--host", "127.0.0.1", "--port", str(port)]
    command += ["-c", str(256 * streams), "-np", str(streams), "-t", str(chosen.threads)]
    command += ["-tb", str(chosen.threads), "--no-warmup"]
    url = f"http://127.0.0.1:{port}"
    return _served([command], chosen.threads, url, lambda: _answers(f"{url}/health"))


def fastchat(chosen: argparse.Namespace, folder: Path, streams: int) -> Peer | str:
    """FastChat's controller and OpenAI server over bigdl-llm's worker, or why it is skipped."""
    del streams
    if not chosen.fastchat_python:
        return "FastChat with bigdl-llm's worker (--fastchat-python)"
    controller, worker, server = (_free_port() for _ in range(3))
    at, python = "http://127.0.0.1", [chosen.fastchat_python, "-m"]
    commands = [
        [*python, "fastchat.serve.controller", "--port", str(controller)],
        [
            *(*python, "bigdl.llm.serving.model_worker", "--model-path", str(folder)),
            *("--device", "cpu", "--controller-address", f"{at}:{controller}"),
            *("--worker-address", f"{at}:{worker}", "--port", str(worker)),
        ],
        [
            *(*python, "fastchat.serve.openai_api_server", "--port", str(server)),
            *("--controller-address", f"{at}:{controller}"),
        ],
    ]
    url = f"{at}:{server}"

    def ready() -> bool:
        listed = _answers(f"{url}/v1/models")
        return bool(listed and listed["data"])

    return _served(commands, chosen.threads, url, ready)


@contextmanager
def _served(
    commands: Sequence[list[str]], threads: int, url: str, ready: Callable[[], Any]
) -> Generator[str]:
    """Start the processes, wait until they are ready, end them."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    with (
        tempfile.TemporaryDirectory() as folder,  # FastChat writes its logs to the current folder
        tempfile.TemporaryFile() as log,
        contextlib.ExitStack() as stack,
    ):
        started: list[subprocess.Popen[bytes]] = []
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
            stack.callback(_end, process)
            started.append(process)
            time.sleep(3 if len(commands) > 1 else 0)  # a worker registers once, as it starts
        end = time.monotonic() + _START_S
        while not ready():
            if time.monotonic() > end or any(p.poll() is not None for p in started):
                log.seek(0)
                raise SystemExit(log.read()[-2000:].decode(errors="replace"))
            time.sleep(0.2)
        yield url


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> Any:
    try:
        answer = httpx.get(url, timeout=5.0)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
