"""The mission's two commands, in an empty folder, with nothing but the built wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import openai
import pytest

from penstock.models.backends.native.kernels import build as native
from tests.fixtures.processes import ROOT, answers, card_of
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "demo-cpu"
HAS_NATIVE = native.is_possible() and native.system_compiler() is not None


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder that holds what pip puts into site-packages: a wheel is a zip of it."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    if HAS_NATIVE:
        assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
        assert (
            "penstock/models/backends/native/libpenstock_native.so"
            in zipfile.ZipFile(wheel).namelist()
        )
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    return tmp_path / "installed"


@pytest.mark.slow
def test_worker_and_api_run_from_a_wheel(
    installed: Path, tmp_path: Path, processes: Processes, redis_url: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {
        "PYTHONPATH": str(installed),  # goes before the checkout that is installed for the tests
        "PENSTOCK_REDIS_URL": redis_url,
        "PENSTOCK_THREADS": "1",
        "PENSTOCK_BIGDL_BACKEND": "native",
        "PENSTOCK_KV_CACHE_BYTES": str(32 * 2**20),
    }
    whence = (
        "import api, workers, penstock; print(api.__file__, workers.__file__, penstock.__file__)"
    )
    asked = processes.start("whence", [sys.executable, "-c", whence], env, empty)
    assert asked.wait() == 0
    found = asked.output().split()
    assert found == [
        str(installed / name / "__init__.py") for name in ("api", "workers", "penstock")
    ]

    queues = [QUEUE, f"bigdl-{QUEUE}"] if HAS_NATIVE else [QUEUE]
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    worker = processes.start(
        "worker",
        [sys.executable, "-m", "celery", "-A", "workers", "worker", "-Q", ",".join(queues)],
        env,
        empty,
    )
    api = processes.start(
        "api", [sys.executable, "-m", "uvicorn", "api:app", "--port", str(port)], env, empty
    )
    card = worker.wait_until(lambda: card_of(redis_url, worker.pid))
    api.wait_until(lambda: answers(f"{url}/ready"))
    assert answers(f"{url}/"), "the page's files are in the wheel"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answers_of = [
            client.chat.completions.create(
                model=queue.removesuffix("-cpu"),
                messages=[{"role": "user", "content": "What is Penstock?"}],
                temperature=0,
            )
            for queue in queues
        ]
    for answer in answers_of:
        assert "serving fleet" in (answer.choices[0].message.content or "")
    assert {model.backend for model in card.models} == {"transformers", *(["native"] * HAS_NATIVE)}
    assert worker.stop() == 0
