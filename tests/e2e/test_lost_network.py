"""A worker loses its network; what the client gets is what nobody disturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.proxy import FaultyProxy
from tests.e2e.test_failover import PROMPT, QUEUE, SAMPLED
from tests.fixtures.jobs import wait_until_async
from tests.fixtures.processes import card_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes, Running
    from tests.fixtures.redis import RedisServer
    from tests.fixtures.submitting import Submitter

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

TOKENS = 600


async def runs_at(submitter: Submitter, job_id: str, worker: Running) -> bool:
    return f":{worker.pid}:" in (await submitter.queue.state(job_id)).worker


async def test_a_worker_without_network_is_replaced_and_comes_back(
    processes: Processes,
    submitter: Submitter,
    redis_server: RedisServer,
    redis_url: str,
    models_dir: Path,
) -> None:
    async def submit() -> str:
        job_id = await submitter.submit(QUEUE, PROMPT, max_tokens=TOKENS, **SAMPLED)
        await submitter.until_tokens(QUEUE, job_id, 20)
        return job_id

    proxy = FaultyProxy(redis_server.port)
    async with proxy.running():
        remote = processes.start_worker(
            QUEUE, f"redis://127.0.0.1:{proxy.port}/0", models_dir, wait=False
        )
        await wait_until_async(lambda: card_of(redis_url, remote.pid), 90.0)
        cut_off = await submit()
        near = processes.start_worker(QUEUE, redis_url, models_dir, wait=False)
        await wait_until_async(lambda: card_of(redis_url, near.pid), 90.0)
        undisturbed = await submitter.answer(QUEUE, cut_off)
        while True:  # until the remote one has one
            cut_off = await submit()
            if await runs_at(submitter, cut_off, remote):
                break
        async with proxy.lost(proxy.port):
            await wait_until_async(lambda: runs_at(submitter, cut_off, near), 20.0)
            await submitter.until_tokens(QUEUE, cut_off, 200)
        answer = await submitter.answer(QUEUE, cut_off)
        assert answer.token_ids == undisturbed.token_ids
        assert (await submitter.queue.state(cut_off)).lost == 1
        assert remote.exit_code() is None, "it goes on when the network is back"
        await wait_until_async(lambda: card_of(redis_url, remote.pid), 20.0)
