"""A worker is killed in mid-answer; the next one goes on from its blocks and finds them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from penstock.contract.events import Finished
from penstock.transport import keys
from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import card_of

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


@pytest.mark.slow
async def test_a_worker_finds_what_one_of_another_host_has_computed(
    processes: Processes, submitter: Submitter, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    def env(name: str) -> dict[str, str]:
        return {
            "PENSTOCK_KV_STORE": str(tmp_path / name),
            "PENSTOCK_KV_EXCHANGE_TOKEN": "a token of an exchange",
        }

    first = processes.start_worker(QUEUE, redis_url, models_dir, env=env("there"))
    computed = await submitter.ask(QUEUE, PROMPT, **GREEDY)
    wait_until(lambda: len(list((tmp_path / "there").rglob("*.kv"))) >= BLOCKS)
    assert "Blocks of the KV cache at http://127.0.0.1:" in first.output()
    card = card_of(redis_url, first.pid)
    assert card is not None
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.set(keys.drain(card.id), 1, ex=60)  # it rests, and serves its blocks
    first.wait_until(lambda: "rests" in first.output())
    processes.start_worker(QUEUE, redis_url, models_dir, env=env("here"))
    answer = await submitter.ask(QUEUE, PROMPT, **GREEDY)
    assert answer.text == computed.text
    assert isinstance(answer.end, Finished)
    assert answer.end.usage.cached_tokens >= BLOCKS * 16
