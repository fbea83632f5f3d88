"""What keeps a worker from starting is one clear line, a non-zero exit code, and no job taken."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running
    from tests.fixtures.submitting import Submitter

QUEUE = "tiny-llama-cpu"


def failed_line(worker: Running) -> str:
    """Return the last line of a worker that could not start."""
    assert worker.wait(60) == 1
    assert "Traceback" not in worker.output()
    *_, last = worker.output().strip().splitlines()
    assert last.startswith("penstock: ")
    return last


@pytest.fixture
def nowhere() -> str:
    """A Redis that is not there."""
    return "redis://127.0.0.1:1/0"


def test_no_queue(processes: Processes, redis_url: str):
    command = [sys.executable, "-m", "celery", "-A", "workers", "worker"]
    worker = processes.start(
        "worker", command, {"PENSTOCK_REDIS_URL": redis_url, "PYTHONPATH": "src"}
    )
    assert "-Q <model>-<device>" in failed_line(worker)


def test_an_unknown_model(processes: Processes, redis_url: str, models_dir: Path):
    worker = processes.start_worker("nobody-cpu", redis_url, models_dir, wait=False)
    line = failed_line(worker)
    assert "nobody" in line
    assert "tiny-llama" in line


async def test_a_folder_without_weights_takes_no_job(
    processes: Processes, submitter: Submitter, redis_url: str, tmp_path: Path, tiny_llama: Path
):
    folder = tmp_path / "hollow"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_llama / name).read_bytes())
    job_id = await submitter.submit("hollow-cpu")
    worker = processes.start_worker("hollow-cpu", redis_url, tmp_path, wait=False)
    assert "hollow" in failed_line(worker)
    assert (await submitter.queue.depth("hollow-cpu")).waiting_jobs == 1
    assert (await submitter.queue.state(job_id)).epoch == 0


def test_a_device_that_is_not_there(processes: Processes, redis_url: str, models_dir: Path):
    if torch.xpu.is_available():
        pytest.skip("this machine has an Intel GPU")
    worker = processes.start_worker("tiny-llama-xpu", redis_url, models_dir, wait=False)
    assert "tiny-llama-xpu" in failed_line(worker)


def test_a_bad_setting(processes: Processes, redis_url: str, models_dir: Path):
    env = {"PENSTOCK_SLOTS": "many"}
    worker = processes.start_worker(QUEUE, redis_url, models_dir, env=env, wait=False)
    assert "PENSTOCK_SLOTS" in failed_line(worker)


def test_another_pool(processes: Processes, redis_url: str, models_dir: Path):
    options = ("-P", "solo")
    worker = processes.start_worker(QUEUE, redis_url, models_dir, options=options, wait=False)
    assert "-P" in failed_line(worker)


def test_a_redis_that_is_away(processes: Processes, nowhere: str, models_dir: Path):
    env = {"PENSTOCK_REDIS_PATIENCE_S": "0.5"}
    worker = processes.start_worker(QUEUE, nowhere, models_dir, env=env, wait=False)
    assert "PENSTOCK_REDIS_URL" in failed_line(worker)
    assert "127.0.0.1:1/0 does not answer" in worker.output()
