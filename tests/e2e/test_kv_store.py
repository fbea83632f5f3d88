"""A worker is killed in mid-answer; the next one goes on from its blocks and finds them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.events import Finished
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
PROMPT = "Water flows through the gate and down to the mill, where it turns the wheel. " * 8
BLOCKS = 6
"""Blocks of the prompt, at least; they are written in order."""
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 200}


@pytest.mark.slow
async def test_a_killed_workers_answer_goes_on_from_its_blocks(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    store = tmp_path / "kv"
    env = {"PENSTOCK_KV_STORE": str(store)}
    first = processes.start_worker(QUEUE, redis_url, models_dir, env=env)
    job_id = await submitter.submit(QUEUE, PROMPT, **GREEDY)
    await submitter.until_tokens(QUEUE, job_id, 60)
    wait_until(lambda: len(list(store.rglob("*.kv"))) >= BLOCKS)
    first.kill()
    second = processes.start_worker(QUEUE, redis_url, models_dir, env=env)
    answer = await submitter.answer(QUEUE, job_id)
    assert isinstance(answer.end, Finished)
    usage = answer.end.usage
    assert usage.prompt_tokens > BLOCKS * 16
    assert usage.cached_tokens >= BLOCKS * 16
    assert "blocks of the KV cache again" in second.output()
    # The same text as without the store, and found again by a third worker.
    second.stop()
    processes.start_worker(QUEUE, redis_url, models_dir)
    undisturbed = await submitter.ask(QUEUE, PROMPT, **GREEDY)
    assert answer.text == undisturbed.text
    assert isinstance(undisturbed.end, Finished)
    assert undisturbed.end.usage.cached_tokens == 0
