"""A real Celery worker must take our doorbells for its own producer's messages."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from penstock.transport.jobs.queue import JobQueue
from tests.fixtures.jobs import QUEUE, make_job, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis
    import redis.asyncio

    from penstock.settings import Settings

APPLICATION = """
import os
import redis
from celery import Celery

app = Celery("bells", broker=os.environ["BROKER"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_ignore_result=True)
client = redis.Redis.from_url(os.environ["BROKER"])

@app.task(name="penstock.doorbell", bind=True)
def doorbell(self):
    client.sadd("rung", self.request.id)
    client.expire("rung", 60)
"""


@pytest.fixture
def celery_worker(tmp_path: Path, redis_url: str) -> Iterator[Path]:
    """A Celery worker on the queue; its log."""
    (tmp_path / "bells.py").write_text(APPLICATION)
    log = tmp_path / "worker.log"
    command = [
        *(sys.executable, "-m", "celery", "-A", "bells", "worker", "-Q", QUEUE),
        *("-P", "solo", "-l", "INFO", "--without-gossip", "--without-mingle", "-f", str(log)),
    ]
    environment = {**os.environ, "BROKER": redis_url, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    yield log
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def test_celery_runs_a_task_for_each_bell(
    celery_worker: Path,
    async_redis: redis.asyncio.Redis,
    redis_client: redis.Redis,
    redis_settings: Settings,
) -> None:
    jobs = JobQueue(async_redis, redis_settings)
    for _ in range(5):
        await jobs.submit(make_job())
    wait_until(lambda: redis_client.scard("rung") == 5, 60)
    # All of them acknowledged: nothing of a bell is left.
    wait_until(lambda: not redis_client.hlen("unacked") and not redis_client.llen(QUEUE))
    log = await asyncio.to_thread(celery_worker.read_text)
    assert "penstock.doorbell" in log
    assert "ERROR" not in log
    assert "Traceback" not in log


async def test_a_bell_has_the_shape_of_celerys_own_messages(
    redis_url: str,
    async_redis: redis.asyncio.Redis,
    redis_client: redis.Redis,
    redis_settings: Settings,
) -> None:
    with Celery("bells", broker=redis_url) as app:
        app.conf.task_ignore_result = True
        app.send_task("penstock.doorbell", queue=QUEUE)
    bell: Any = redis_client.rpop(QUEUE)
    own = json.loads(bell)
    jobs = JobQueue(async_redis, redis_settings)
    await jobs.submit(make_job())
    await jobs.submit(make_job())
    ours, other = (json.loads(one) for one in redis_client.lrange(QUEUE, 0, -1))
    redis_client.delete(QUEUE)

    def shape(value: Any) -> Any:
        return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else ""

    assert shape(ours) == shape(own)
    for part in ("body", "content-encoding", "content-type"):
        assert ours[part] == own[part]
    assert json.loads(base64.b64decode(ours["body"]))[:2] == [[], {}]
    assert ours["properties"]["delivery_info"] == own["properties"]["delivery_info"]
    ids = [
        *(one["headers"]["id"] for one in (ours, other)),
        *(one["properties"]["delivery_tag"] for one in (ours, other)),
    ]
    assert len(set(ids)) == 4
    assert all(len(one) == 36 for one in ids)
