"""A real FastChat worker with us, and our fleet with a real FastChat controller."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fastchat.conftest import MODEL
from tests.fastchat.programs import OPENAI_SERVER, SOURCES, WITH_TORCH
from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import ROOT, _common
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from tests.fastchat.conftest import FastChat
    from tests.fixtures.processes import Running

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

ASK: Any = {"model": "theirs", "prompt": "Water flows", "max_tokens": 8, "temperature": 0}


def test_a_real_fastchat_worker_joins_and_dies(fastchat: FastChat) -> None:
    port = find_free_port()
    worker = fastchat.start(
        WITH_TORCH, "model_worker",
        "--model-path", str(fastchat.models_dir / MODEL), "--model-names", "theirs",
        "--device", "cpu", "--controller-address", fastchat.api.url, "--port", str(port),
        "--host", "127.0.0.1", "--worker-address", f"http://127.0.0.1:{port}",
    )  # fmt: skip

    def listed() -> list[str]:
        return fastchat.ask("/list_models")["models"]

    worker.wait_until(lambda: listed() == sorted([MODEL, "theirs"]))
    assert fastchat.ask("/get_worker_address", model="theirs") == {"address": fastchat.api.url}
    answer = fastchat.ask("/v1/completions", **ASK)
    assert answer["choices"][0]["text"]
    assert answer["usage"]["prompt_tokens"] > 0
    ours = fastchat.ask("/v1/completions", **{**ASK, "model": MODEL})  # the same weights
    assert answer["choices"][0]["text"] == ours["choices"][0]["text"]
    details = fastchat.ask("/model_details", model="theirs")
    assert (
        details["context_length"] == fastchat.ask("/model_details", model=MODEL)["context_length"]
    )
    worker.kill()
    assert fastchat.ask("/worker_generate", model="theirs", prompt="a")["error_code"] == 50005
    assert listed() == [MODEL]


def test_our_fleet_joins_a_real_fastchat_controller(fastchat: FastChat) -> None:
    controller = fastchat.serve(OPENAI_SERVER, "controller", "/test_connection")
    api = fastchat.join(controller)

    def models() -> list[str]:
        return httpx.post(f"{controller.url}/list_models").json()["models"]

    api.wait_until(lambda: models() == [MODEL])
    asked = ("--controller-address", controller.url, "--model-name", MODEL, "--message", "Hi")
    running = fastchat.start(WITH_TORCH, "test_message", *asked)
    assert running.wait(90.0) == 0, running.output()
    assert f"worker_addr: {api.url}" in running.output()
    assert "NETWORK ERROR" not in running.output()
    assert len(running.output().partition("Assistant: ")[2].strip()) > 0
    controller.kill()
    port = int(controller.url.rpartition(":")[2])
    again = fastchat.serve(OPENAI_SERVER, "controller", "/test_connection", port=port)
    wait_until(lambda: models() == [MODEL], 30.0)  # it had forgotten us
    api.kill()
    again.kill()


def test_a_real_fastchat_worker_joins_by_the_token(fastchat: FastChat) -> None:
    """It keeps the path of its controller's address, and can send nothing else."""
    guarded = fastchat.processes.start_api(
        fastchat.redis_url,
        env={
            "PENSTOCK_FASTCHAT_WORKER_TOKEN": "s3cret",
            "PENSTOCK_API_KEYS": "mine",
            # Chats with FastChat's workers need its library.
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT), str(SOURCES))),
        },
        options=("--log-level", "info"),
    )

    def start(token: str, program: str, *models: str) -> Running:
        port = find_free_port()
        return fastchat.start(
            WITH_TORCH, program, *models,
            "--device", "cpu", "--controller-address", f"{guarded.url}/r/{token}",
            "--port", str(port), "--host", "127.0.0.1",
            "--worker-address", f"http://127.0.0.1:{port}",
        )  # fmt: skip

    mine = {"authorization": "Bearer mine"}

    def listed() -> set[str]:
        return set(httpx.post(f"{guarded.url}/list_models", headers=mine).json()["models"])

    def completed(model: str) -> str:
        asked = {**ASK, "model": model}
        url = f"{guarded.url}/v1/completions"
        answer = httpx.post(url, json=asked, headers=mine, timeout=60.0).json()
        return answer["choices"][0]["text"]

    model = ("--model-path", str(fastchat.models_dir / MODEL))
    stranger = start("guess", "model_worker", *model)
    two = (*model, "--model-names", "vouched", *model, "--model-names", "second")
    worker = start("s3cret", "multi_model_worker", *two)
    worker.wait_until(lambda: listed() >= {"vouched", "second"})
    assert completed("vouched") == completed("second") == completed(MODEL)  # the same weights
    chat = {
        "model": "vouched",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
    }
    url = f"{guarded.url}/v1/chat/completions"
    told = httpx.post(url, json=chat, headers=mine, timeout=60.0).json()
    assert told["choices"][0]["message"]["content"]
    assert stranger.wait(90.0) != 0
    worker.kill()
    died_s = time.monotonic()
    wait_until(lambda: not listed() & {"vouched", "second"}, 30.0)
    assert time.monotonic() - died_s < 10.0
    log = guarded.output()
    assert "s3cret" not in log
    assert "guess" not in log
    assert 'POST /r/***/register_worker HTTP/1.1" 200' in log  # uvicorn's own line
    assert "path=/r/***/register_worker" in log
    guarded.kill()


def test_a_worker_by_fastchats_command_line_joins_a_real_controller(fastchat: FastChat) -> None:
    """`penstock.serving.model_worker --controller-address`: FastChat's way to start one."""
    controller = fastchat.serve(OPENAI_SERVER, "controller", "/test_connection")
    port = find_free_port()
    worker = fastchat.processes.start(
        "model-worker",
        [
            *(sys.executable, "-m", "penstock.serving.model_worker"),
            *("--model-path", str(fastchat.models_dir / MODEL), "--model-names", "by-line"),
            *("--device", "cpu", "--controller-address", controller.url),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        _common(fastchat.redis_url),
    )

    def models() -> list[str]:
        return httpx.post(f"{controller.url}/list_models").json()["models"]

    worker.wait_until(lambda: "by-line" in models())
    address = httpx.post(f"{controller.url}/get_worker_address", json={"model": "by-line"}).json()
    assert address == {"address": f"http://127.0.0.1:{port}"}
    asked = ("--controller-address", controller.url, "--model-name", "by-line", "--message", "Hi")
    running = fastchat.start(WITH_TORCH, "test_message", *asked)
    assert running.wait(90.0) == 0, running.output()
    assert "NETWORK ERROR" not in running.output()
    assert worker.stop() == 0
