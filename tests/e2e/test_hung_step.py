"""A worker's step really hangs in mid-stream; what the client gets is what nobody disturbed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from tests.e2e.test_failover import GREEDY, SAMPLED, Reader
from tests.fixtures.gated import Gate, write_gated_llama
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import card_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MODEL = "gated"
QUEUE = f"{MODEL}-cpu"
TOKENS = 700
USUAL_STEPS = 100
"""More than the engine has to see before it says how long a step takes."""
HUNG_STEP_S = 30
"""Where the machine is so busy that steps of a second are usual; else 5 s tell."""


class Hanging:
    """An API, and workers each with a gate."""

    def __init__(self, processes: Processes, redis_url: str, folder: Path) -> None:
        self.api = processes.start_api(redis_url, env={"PENSTOCK_KEEPALIVE_S": "0.5"})
        self._processes, self._redis_url = processes, redis_url
        self._models_dir = folder / "models"
        self._env = {
            "PENSTOCK_TRUST_REMOTE_CODE": "true",
            "HF_MODULES_CACHE": str(folder / "modules"),
            "PENSTOCK_HUNG_STEP_S": str(HUNG_STEP_S),
        }
        self._folder = folder
        write_gated_llama(self._models_dir / MODEL)

    def two_workers(self, *, keeps_interpreter: bool) -> list[tuple[Running, Gate]]:
        """Start two at once, and wait for both."""
        gates = [Gate(self._folder / f"gate-{number}") for number in range(2)]
        started = [
            self._processes.start_worker(
                QUEUE,
                self._redis_url,
                self._models_dir,
                env={**self._env, **gate.env(keeps_interpreter=keeps_interpreter)},
                wait=False,
            )
            for gate in gates
        ]
        for one in started:
            one.wait_until(lambda one=one: card_of(self._redis_url, one.pid))
        return list(zip(started, gates, strict=True))


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


async def has_lost_its_worker(submitter: Submitter, job_id: str) -> bool:
    return (await submitter.queue.state(job_id)).lost == 1


async def is_held_by(submitter: Submitter, job_id: str, worker: Running) -> bool:
    return f":{worker.pid}:" in (await submitter.queue.state(job_id)).worker


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "whole_process", [False, True], ids=["the engine alone", "and with it the interpreter"]
)
async def test_a_hung_steps_answers_go_on_elsewhere(
    hanging: Hanging, client: openai.OpenAI, submitter: Submitter, *, whole_process: bool
) -> None:
    workers = hanging.two_workers(keeps_interpreter=whole_process)
    wait_until(lambda: [model.id for model in client.models.list()] == [MODEL])
    readers = ask(client)
    for reader in readers:
        wait_until(lambda reader=reader: len(reader.pieces) > USUAL_STEPS, 60.0)
    if not await is_held_by(submitter, readers[0].job_id, workers[0][0]):
        workers.reverse()
    (hung, gate), (other, _) = workers
    with gate.shut():
        held = [reader for reader in readers if await is_held_by(submitter, reader.job_id, hung)]
        for reader in held:
            await wait_until_async(
                lambda reader=reader: has_lost_its_worker(submitter, reader.job_id),
                HUNG_STEP_S + 15.0,
            )
        disturbed = await texts(readers)
        # It takes no job meanwhile: each is the other's at its first attempt.
        taken = [await submitter.submit(QUEUE) for _ in range(20)]
        for job_id in taken:
            await submitter.answer(QUEUE, job_id)
            assert await is_held_by(submitter, job_id, other)
            assert (await submitter.queue.state(job_id)).epoch == 1
    if not whole_process:
        assert "has been in one step for" in hung.output()
        wait_until(lambda: "goes on again" in hung.output())
    for reader in held:
        answer = await submitter.answer(QUEUE, reader.job_id)
        assert (await submitter.queue.state(reader.job_id)).epoch == 2
        assert await is_held_by(submitter, reader.job_id, other)
        assert len(answer.token_ids) == TOKENS
    assert other.stop() == 0
    undisturbed = await texts(ask(client))  # by the one that hung, which serves again
    assert disturbed == undisturbed
    assert hung.stop() == 0
    assert "Traceback" not in hung.output()
