"""A worker whose model is held by two processes: one of them dies."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes
    from tests.fixtures.redis import RedisServer
    from tests.fixtures.submitting import Submitter

QUEUE = "tiny-llama-cpu"


@pytest.mark.timeout(300)  # four processes import torch, beside all other tests
async def test_a_dead_rank_ends_its_worker_and_another_goes_on(
    processes: Processes,
    redis_server: RedisServer,
    submitter: Submitter,
    models_dir: Path,
    tmp_path: Path,
):
    file = tmp_path / "models.toml"
    file.write_text(
        f"[models.tiny-llama]\npath = '{models_dir / 'tiny-llama'}'\ntensor_parallel = 2\n"
    )
    worker = processes.start_worker(
        QUEUE, redis_server.url, models_dir, env={"PENSTOCK_MODELS_FILE": str(file)}
    )
    job = await submitter.submit(QUEUE, max_tokens=200)
    await submitter.until_tokens(QUEUE, job, 5)
    (rank,) = (
        child
        for child in psutil.Process(worker.pid).children()
        if "penstock.models.backends.tensor_parallel.follower" in child.cmdline()
    )
    os.kill(rank.pid, signal.SIGKILL)
    assert worker.wait(60.0) == os.EX_SOFTWARE
    why = f"its engine has died: rank 1 of 2 (process {rank.pid}) was ended by signal 9"
    assert why in worker.output()

    other = processes.start_worker(QUEUE, redis_server.url, models_dir)
    answer = await submitter.answer(QUEUE, job, timeout_s=90.0)
    assert len(answer.token_ids) == 200
    assert answer.text == (await submitter.ask(QUEUE, max_tokens=200)).text
    assert other.stop() == 0
