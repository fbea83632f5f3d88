"""Redis answers a worker with errors, or hands it what nobody of ours has sent.

It waits for the end of errors, as for a Redis that is away, and goes on; foreign messages are dropped.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import redis
from pydantic import RedisDsn

from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.store.connection import connect_async
from tests.fixtures.foreign_messages import FOREIGN, bell
from tests.fixtures.jobs import wait_until, wait_until_async
from tests.fixtures.processes import Processes, Running
from tests.fixtures.redis import RedisServer
from tests.fixtures.reply_proxy import KINDS, ReplyProxy
from tests.fixtures.submitting import Submitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)

QUEUE = "tiny-llama-cpu"
FAULTS_A_KIND = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3"))
FAULT_S = 1.2
"""Longer than Celery waits on a queue, so that its commands meet the fault."""


class Scene:
    """A worker on a Redis of its own, which it reaches through a proxy."""

    def __init__(
        self, server: RedisServer, proxy: ReplyProxy, processes: Processes, worker: Running
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.processes = processes
        self.worker = worker
        self.settings = Settings(redis_url=RedisDsn(server.url), redis_patience_s=20.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Scene]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    processes = Processes(tmp_path_factory.mktemp("logs"))
    server.start()
    proxy = ReplyProxy(server.port)
    proxy.start()
    url = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        worker = processes.start_worker(QUEUE, url, models_dir, options=("-c", "4"))
        yield Scene(server, proxy, processes, worker)
    finally:
        processes.print_logs()
        processes.kill_all()
        proxy.stop()
        server.kill()


@contextmanager
def demoted(client: redis.Redis) -> Iterator[None]:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def configured(client: redis.Redis, name: str, value: str, after: str) -> Iterator[None]:
    client.config_set(name, value)
    yield
    client.config_set(name, after)


@contextmanager
def without_permission(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL", "SETUSER", "default", "-brpop", "-evalsha", "-eval")
    yield
    client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """A script of somebody's that does not end."""
    client.config_set("busy-reply-threshold", 50)
    url = f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"

    def hang() -> None:
        with redis.Redis.from_url(url, protocol=2) as other, suppress(redis.ResponseError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        wait_until(lambda: is_busy(client))
        yield
    finally:
        client.script_kill()
        thread.join()


def is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


FAULTS: dict[str, Callable[[redis.Redis], AbstractContextManager[None]]] = {
    "demoted": demoted,
    "short of replicas": lambda client: configured(client, "min-replicas-to-write", "1", "0"),
    "a changed ACL": without_permission,
    "busy": busy,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_error_reply_is_an_outage(scene: Scene, fault: str):
    outages = lines(scene.worker, "broker lost")
    noted = noted_outages(scene.worker)
    with redis.Redis.from_url(scene.server.url, protocol=2) as admin:
        async with connect_async(scene.settings) as client:
            submitter = Submitter(client, scene.settings)
            undisturbed = await submitter.ask(QUEUE, max_tokens=300)
            jobs = [await submitter.submit(QUEUE, max_tokens=300) for _ in range(6)]
            await submitter.until_tokens(QUEUE, jobs[0], 10)
            with FAULTS[fault](admin):
                hold(FAULT_S)
            for job_id in jobs:
                assert (await submitter.answer(QUEUE, job_id)).text == undisturbed.text
            idle = noted_outages(scene.worker)
            with FAULTS[fault](admin):
                wait_until(lambda: noted_outages(scene.worker) > idle, 20.0)
                hold(FAULT_S)
            assert (await submitter.ask(QUEUE, max_tokens=300)).text == undisturbed.text
    await_the_end(scene.worker)
    assert scene.worker.exit_code() is None
    assert noted_outages(scene.worker) > noted
    assert lines(scene.worker, "broker lost") <= outages + 2, "a line for each outage"
    assert "Traceback" not in scene.worker.output()


async def test_replies_of_every_kind_lose_nothing(scene: Scene):
    """Claims, renewals, events, bells: a reply of any of them is something else, or never comes."""
    chance = random.Random(3)
    faults = [(kind, chance.randrange(12)) for kind in KINDS for _ in range(FAULTS_A_KIND)]
    chance.shuffle(faults)
    async with connect_async(scene.settings) as client:
        submitter = Submitter(client, scene.settings)
        undisturbed = await submitter.ask(QUEUE, max_tokens=40)
        jobs: list[str] = []
        for kind, after in faults:
            before = scene.proxy.replaced
            jobs.append(await submitter.submit(QUEUE, max_tokens=40))
            with scene.proxy.faulty(kind, after):
                await wait_until_async(lambda before=before: scene.proxy.replaced > before, 30.0)
        for job_id in jobs:
            answer = await submitter.answer(QUEUE, job_id)
            answer.check_whole()
            assert answer.text == undisturbed.text
    await_the_end(scene.worker)
    assert scene.worker.exit_code() is None
    assert "was answered with something else" in scene.worker.output()
    assert "Traceback" not in scene.worker.output()


async def test_a_full_redis_is_an_outage(scene: Scene):
    """The bell is there when memory ends, so that Celery's own writes are refused."""
    outages = lines(scene.worker, "broker lost")
    with redis.Redis.from_url(scene.server.url, protocol=2) as admin:
        async with connect_async(scene.settings) as client:
            submitter = Submitter(client, scene.settings)
            undisturbed = await submitter.ask(QUEUE, max_tokens=20)
            with admin.pipeline(transaction=True) as pipeline:
                pipeline.lpush(QUEUE, bell())
                pipeline.config_set("maxmemory", 1)
                pipeline.execute()
            wait_until(lambda: lines(scene.worker, "broker lost") > outages, 20.0)
            hold(FAULT_S)
            admin.config_set("maxmemory", 0)
            assert (await submitter.ask(QUEUE, max_tokens=20)).text == undisturbed.text
    await_the_end(scene.worker)
    assert scene.worker.exit_code() is None
    assert "Traceback" not in scene.worker.output()


async def test_a_full_redis_does_not_keep_accepted_jobs_waiting(scene: Scene):
    """Celery's commands are refused, but not the scripts by which a job is claimed and written."""
    with redis.Redis.from_url(scene.server.url, protocol=2) as admin:
        async with connect_async(scene.settings) as client:
            submitter = Submitter(client, scene.settings)
            undisturbed = await submitter.ask(QUEUE, max_tokens=100)
            jobs = [await submitter.submit(QUEUE, max_tokens=100) for _ in range(12)]
            admin.config_set("maxmemory", 1)
            for job_id in jobs:
                assert (await submitter.answer(QUEUE, job_id)).text == undisturbed.text
            admin.config_set("maxmemory", 0)
            assert (await submitter.ask(QUEUE, max_tokens=100)).text == undisturbed.text
    await_the_end(scene.worker)
    assert scene.worker.exit_code() is None


async def test_foreign_messages_are_dropped(scene: Scene):
    await_the_end(scene.worker)
    outages = lines(scene.worker, "broker lost")
    with redis.Redis.from_url(scene.server.url, protocol=2) as admin:
        admin.delete("unacked", "unacked_index")  # bells that a full Redis did not take back
        before = dropped(scene.worker)
        for kind, one in FOREIGN.items():
            admin.lpush(QUEUE, one if isinstance(one, str | bytes) else json.dumps(one))
            is_taken(admin)
            assert scene.worker.exit_code() is None, kind
        hold(1.05)
        admin.lpush(QUEUE, "5")  # its line has the number of those that have had none
        # Not among them: the bell, and what Celery itself refuses in its own words.
        wait_until(lambda: dropped(scene.worker) - before > len(FOREIGN) - 3, 20.0)
        # A flood is a line a second.
        noted = lines(scene.worker, "Dropped a message")
        admin.lpush(QUEUE, *["5"] * 2_000)
        admin.rpush(
            keys.tokenizer_calls(QUEUE), *[one for one in FOREIGN.values() if isinstance(one, str)]
        )
        wait_until(lambda: not admin.llen(keys.tokenizer_calls(QUEUE)), 20.0)
        admin.publish("/0.celery.pidbox", "[" * 100_000)
        admin.publish("/0.celery.pidbox", '{"properties": 5}')
        admin.publish("/0.celery.pidbox", bell())
        for one in FOREIGN.values():
            admin.publish(
                "/0.celery.pidbox", one if isinstance(one, str | bytes) else json.dumps(one)
            )
        admin.publish("/0.nobody.knows", "{}")
        is_taken(admin)
        assert lines(scene.worker, "Dropped a message") < noted + 30
        async with connect_async(scene.settings) as client:
            await Submitter(client, scene.settings).ask(QUEUE, max_tokens=20)
        wait_until(lambda: not admin.hlen("unacked"))
    assert scene.worker.exit_code() is None
    assert lines(scene.worker, "broker lost") == outages
    assert "Traceback" not in scene.worker.output()


def dropped(worker: Running) -> int:
    """Return how many dropped messages the log accounts for."""
    told = [line for line in worker.output().splitlines() if "Dropped a message" in line]
    more = [re.search(r"and (\d+) more", line) for line in told]
    return len(told) + sum(int(found[1]) for found in more if found)


def is_taken(client: redis.Redis) -> None:
    """Wait until nothing is left on the queue's list, or held by Celery."""
    wait_until(lambda: not client.llen(QUEUE) and not client.hlen("unacked"), 20.0)


def test_a_worker_ends_well_while_redis_refuses(scene: Scene):
    with redis.Redis.from_url(scene.server.url, protocol=2) as admin:
        outages = lines(scene.worker, "broker lost")
        with demoted(admin):
            wait_until(lambda: lines(scene.worker, "broker lost") > outages, 20.0)
            assert scene.worker.stop(60.0) == 0


def hold(seconds: float) -> None:
    """Let a fault last."""
    over_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > over_s, seconds + 5.0, poll_s=0.05)


def await_the_end(worker: Running) -> None:
    """Wait until the worker's last line about Celery's connection is that all is well."""

    def is_over() -> bool:
        kept = ("broker lost", "Redis takes Celery's commands again")
        told = [line for line in worker.output().splitlines() if any(one in line for one in kept)]
        return not told or kept[1] in told[-1]

    wait_until(is_over, 20.0)


def noted_outages(worker: Running) -> int:
    """Return how often any part of the worker has noticed an outage."""
    return lines(worker, "broker lost") + lines(worker, "Redis does not answer")


def lines(worker: Running, part: str) -> int:
    return sum(part in line for line in worker.output().splitlines())
