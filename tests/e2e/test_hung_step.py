"""A worker's step really hangs in mid-stream; what the client gets is what nobody disturbed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e.test_failover import GREEDY, SAMPLED, Reader
from tests.fixtures.gated import Gate, write_gated_llama
from tests.fixtures.jobs import wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Processes
    from tests.fixtures.submitting import Submitter

MODEL = "gated"
QUEUE = f"{MODEL}-cpu"
TOKENS = 700
USUAL_STEPS = 100
"""More than the engine has to see before it says how long a step takes."""
NOTICED_S = 40.0
"""Well below `PENSTOCK_HUNG_STEP_S`: the measured steps tell that this one hangs."""


class Hanging:
    """An API, and workers of which only the first passes the gate."""

    def __init__(self, processes: Processes, redis_url: str, folder: Path) -> None:
        self.gate = Gate(folder / "gate")
        self.api = processes.start_api(redis_url, env={"PENSTOCK_KEEPALIVE_S": "0.5"})
        self._processes, self._redis_url = processes, redis_url
        self._models_dir = folder / "models"
        self._env = {
            "PENSTOCK_TRUST_REMOTE_CODE": "true",
            "HF_MODULES_CACHE": str(folder / "modules"),
        }
        write_gated_llama(self._models_dir / MODEL)

    def worker(self, env: dict[str, str]) -> Any:
        env = {**self._env, **env}
        return self._processes.start_worker(QUEUE, self._redis_url, self._models_dir, env=env)


@pytest.fixture
def hanging(processes: Processes, redis_url: str, tmp_path: Path) -> Hanging:
    return Hanging(processes, redis_url, tmp_path)


@pytest.fixture
def client(hanging: Hanging) -> Iterator[openai.OpenAI]:
    url = f"{hanging.api.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI) -> list[Reader]:
    return [Reader(client, how, model=MODEL, max_tokens=TOKENS) for how in (GREEDY, SAMPLED)]


async def texts(readers: list[Reader]) -> list[str]:
    return [await asyncio.to_thread(reader.text) for reader in readers]


async def holder(submitter: Submitter, job_id: str) -> str:
    return (await submitter.queue.state(job_id)).worker


async def has_lost_its_worker(submitter: Submitter, job_id: str) -> bool:
    return (await submitter.queue.state(job_id)).lost == 1


@pytest.mark.parametrize(
    "whole_process", [False, True], ids=["the engine alone", "and with it the interpreter"]
)
async def test_a_hung_steps_answers_go_on_elsewhere(
    hanging: Hanging, client: openai.OpenAI, submitter: Submitter, *, whole_process: bool
) -> None:
    first = hanging.worker(hanging.gate.env(keeps_interpreter=whole_process))
    wait_until(lambda: [model.id for model in client.models.list()] == [MODEL])
    readers = ask(client)
    for reader in readers:
        wait_until(lambda reader=reader: len(reader.pieces) > USUAL_STEPS, 60.0)
    with hanging.gate.shut():
        for reader in readers:
            await wait_until_async(
                lambda reader=reader: has_lost_its_worker(submitter, reader.job_id), NOTICED_S
            )
        assert all(reader.is_alive() for reader in readers)
        second = hanging.worker({})
        disturbed = await texts(readers)
        # The hung one takes no job meanwhile: each is the other's at its first attempt.
        taken = [await submitter.submit(QUEUE) for _ in range(20)]
        for job_id in taken:
            await submitter.answer(QUEUE, job_id)
            assert f":{second.pid}:" in await holder(submitter, job_id)
            assert (await submitter.queue.state(job_id)).epoch == 1
    if not whole_process:
        assert "has been in one step for" in first.output()
        wait_until(lambda: "goes on again" in first.output())
    for reader in readers:
        answer = await submitter.answer(QUEUE, reader.job_id)
        assert (await submitter.queue.state(reader.job_id)).epoch == 2
        assert f":{second.pid}:" in await holder(submitter, reader.job_id)
        assert len(answer.token_ids) == TOKENS
    assert second.stop() == 0
    undisturbed = await texts(ask(client))  # by the first, which serves again
    assert disturbed == undisturbed
    assert first.stop() == 0
    assert "Traceback" not in first.output()
