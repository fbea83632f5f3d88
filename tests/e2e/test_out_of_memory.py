"""A worker's memory ends in mid-stream; what the client gets is what nobody disturbed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Finished
from tests.e2e.test_failover import GREEDY, PROMPT, QUEUE, SAMPLED
from tests.fixtures.jobs import wait_until_async
from tests.fixtures.memory import bound_data, control_group

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

TOKENS = 900
LONG_PROMPT = "one two three four five " * 300
"""Its prefill takes megabytes more than the streams that run."""
WHOLE_PROMPTS = {"PENSTOCK_TARGET_STEP_MS": "0", "PENSTOCK_PREFILL_CHUNK_TOKENS": "2048"}


class Asked:
    """Two streams, under way before the memory ends, and a long prompt that ends it."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._asked: list[tuple[str, str, dict[str, Any]]] = []

    async def streams(self) -> None:
        for sampling in (GREEDY, SAMPLED):
            await self._ask(PROMPT, {**sampling, "max_tokens": TOKENS})
        for job_id, _, _ in self._asked:
            await self._submitter.until_tokens(QUEUE, job_id, 20)

    async def long_prompt(self) -> None:
        await self._ask(LONG_PROMPT, {**GREEDY, "max_tokens": 20})

    async def _ask(self, prompt: str, options: dict[str, Any]) -> None:
        job_id = await self._submitter.submit(QUEUE, prompt, **options)
        self._asked.append((job_id, prompt, options))

    async def check(self) -> list[int]:
        """Compare every answer with an undisturbed one; return how many workers each has lost."""
        lost: list[int] = []
        for job_id, prompt, options in self._asked:
            answer = await self._submitter.answer(QUEUE, job_id)
            undisturbed = await self._submitter.ask(QUEUE, prompt, **options)
            assert answer.token_ids == undisturbed.token_ids
            assert answer.text == undisturbed.text
            assert isinstance(answer.end, Finished)
            lost.append((await self._submitter.queue.state(job_id)).lost)
        return lost


async def test_a_worker_that_the_kernel_ends_for_its_memory_loses_no_answer(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
) -> None:
    asked = Asked(submitter)
    with control_group(64 * 1024) as group:
        first = processes.start_worker(QUEUE, redis_url, models_dir, env=WHOLE_PROMPTS)
        await asked.streams()
        (group / "cgroup.procs").write_text(str(first.pid))
        await asked.long_prompt()
        assert first.wait() == -signal.SIGKILL
    processes.start_worker(QUEUE, redis_url, models_dir)
    *streams, last = await asked.check()
    assert streams == [1, 1]
    assert last in {0, 1}  # the kernel may have ended the worker before its claim


async def test_a_worker_whose_allocations_fail_loses_no_answer(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path
) -> None:
    asked = Asked(submitter)
    first = processes.start_worker(QUEUE, redis_url, models_dir, env=WHOLE_PROMPTS)
    await asked.streams()
    bound_data(first.pid)
    await asked.long_prompt()
    await wait_until_async(lambda: has_felt_it(first), 30.0)
    second = processes.start_worker(QUEUE, redis_url, models_dir)
    lost = await asked.check()
    assert max(lost) <= 1
    assert second.exit_code() is None


def has_felt_it(worker: Running) -> bool:
    return worker.exit_code() is not None or "out of memory" in worker.output()
