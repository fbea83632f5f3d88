"""Redis goes away under a worker that is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import RedisDsn

from penstock.contract.events import Tokens
from penstock.settings import Settings
from penstock.transport.store.connection import connect_async
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer
from tests.fixtures.submitting import Submitter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own, which keeps its data on disk."""
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


async def test_a_restart_of_redis_loses_no_job(
    processes: Processes, durable_redis: RedisServer, models_dir: Path
):
    url = durable_redis.url
    settings = Settings(redis_url=RedisDsn(url), redis_patience_s=20.0)
    worker = processes.start_worker(QUEUE, url, models_dir, options=("-c", "2"))
    async with connect_async(settings) as client:
        submitter = Submitter(client, settings)
        undisturbed = await submitter.ask(QUEUE, max_tokens=300)
        jobs = [await submitter.submit(QUEUE, max_tokens=300) for _ in range(4)]
        await submitter.until_tokens(QUEUE, jobs[0], 20)
        durable_redis.kill()
        # The worker has noticed: its consumer and one of its own threads both say so.
        wait_until(lambda: "Connection to broker lost" in worker.output(), 20.0)
        durable_redis.start()
        for job_id in jobs:
            assert (await submitter.answer(QUEUE, job_id)).text == undisturbed.text
        assert (await submitter.ask(QUEUE, max_tokens=300)).text == undisturbed.text
    assert worker.stop() == 0
    assert "Traceback" not in worker.output()


async def test_connections_that_are_cut_do_not_disturb(
    processes: Processes,
    submitter: Submitter,
    redis_client: redis.Redis,
    redis_url: str,
    models_dir: Path,
):
    processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "2"))
    jobs = [await submitter.submit(QUEUE, max_tokens=300) for _ in range(4)]
    await submitter.until_tokens(QUEUE, jobs[0], 20)
    for kind in ("normal", "pubsub"):
        redis_client.client_kill_filter(_type=kind, skipme=True)
    texts = {(await submitter.answer(QUEUE, job_id)).text for job_id in jobs}
    assert len(texts) == 1
    *told, _ = await submitter.events(QUEUE, jobs[0])
    assert sum(len(event.token_ids) for event in told if isinstance(event, Tokens)) == 300
