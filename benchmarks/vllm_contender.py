"""vLLM beside ours in one run: its engine, or its server, as a process of its own interpreter.

It is not among our dependencies. `--vllm-python` is an interpreter that can import it, `--vllm-path`
folders in which that one looks for modules first; without the former, vLLM is left out with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import transformers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

_START_S = 420.0
_RUN_S = 300.0
_ENGINE = Path(__file__).with_name("vllm_engine.py")
_TOLD = 3000
"""Characters of a log that say why it has ended."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where vLLM is."""
    parser.add_argument("--vllm-python", help="an interpreter that has vLLM; else it is left out")
    parser.add_argument("--vllm-path", help="folders for its PYTHONPATH")
    parser.add_argument(
        "--vllm-memory", type=float, default=0.4, help="its share of the GPU's memory"
    )


def missing(options: argparse.Namespace) -> str | None:
    """Return why vLLM is left out; None if it is there."""
    if not options.vllm_python:
        return "no --vllm-python"
    tried = subprocess.run(
        [options.vllm_python, "-c", "import vllm, vllm._C_stable_libtorch"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(options),
        timeout=_START_S,
    )
    return None if not tried.returncode else tried.stderr.strip().rpartition("\n")[2]


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of its processes: PYTHONPATH as asked for, and not this repository's."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return own | ({"PYTHONPATH": options.vllm_path} if options.vllm_path else {})


class VllmEngine:
    """vLLM's engine over random weights of a configuration, by `benchmarks.vllm_engine`."""

    def __init__(self, options: argparse.Namespace, config: Any, slots: int) -> None:
        """:raises SystemExit: it does not start; its log's end says why."""
        self._held = contextlib.ExitStack()
        folder = self._held.enter_context(tempfile.TemporaryDirectory(prefix="penstock-vllm-"))
        config.architectures = config.architectures or [architecture_of(config)]
        config.torch_dtype = "bfloat16"
        config.save_pretrained(folder)
        self.options: dict[str, Any] = {
            "model": folder,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "gpu_memory_utilization": options.vllm_memory,
            "max_num_seqs": slots,
            "max_model_len": config.max_position_embeddings,
            "enable_prefix_caching": False,
        }
        log = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._log = self._held.enter_context(log)
        self._process = subprocess.Popen(
            [options.vllm_python, str(_ENGINE), json.dumps(self.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(options),
            cwd=folder,
        )
        self.version = str(self._answer(_START_S)["version"])

    def run(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """All prompts at once, to their ends; see `benchmarks.vllm_engine`."""
        assert self._process.stdin is not None
        line = json.dumps({"prompts": prompts, "tokens": tokens}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return self._answer(_RUN_S)

    def close(self) -> None:
        """End it; its memory is free then."""
        end(self._process)
        self._held.close()

    def _answer(self, patience_s: float) -> dict[str, Any]:
        output: Any = self._process.stdout
        ready, _, _ = select.select([output], [], [], patience_s)
        line = output.readline() if ready else b""
        if not line:
            end(self._process)
            raise SystemExit(f"vLLM has not answered: {_end_of(self._log)}")
        return json.loads(line)


def architecture_of(config: Any) -> str:
    """Return the name of a configuration's causal model."""
    classes: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return classes[type(config)].__name__


@contextmanager
def server(options: argparse.Namespace, folder: Path, name: str, slots: int) -> Generator[str]:
    """Run vLLM's OpenAI server over a model's folder; yields its address.

    :raises SystemExit: it does not start; its log's end says why.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [options.vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder), "--served-model-name", name, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-num-seqs", str(slots), "--no-enable-prefix-caching"]
    command += ["--gpu-memory-utilization", str(options.vllm_memory), "--dtype", "bfloat16"]
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        cwd = stack.enter_context(tempfile.TemporaryDirectory())
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(options), cwd=cwd
        )
        stack.callback(end, process)
        deadline = time.monotonic() + _START_S
        while not _is_up(url):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"vLLM's server does not start: {_end_of(log)}")
            time.sleep(0.5)
        yield url


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0).is_success
    except httpx.TransportError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it if it does not."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(log: Any) -> str:
    log.seek(0)
    return log.read()[-_TOLD:].decode(errors="replace")
