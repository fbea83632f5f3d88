"""Somebody deletes one of our keys while answers wait, run, or have lost their worker: all come."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from pydantic import RedisDsn

from api import lifespan
from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE, ApiServer, Fleet, ScriptedWorker
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.contract.job import Job
    from tests.fixtures.api import Script

pytestmark = pytest.mark.busy(reason="leases of 0.3 s beside three other tests")

COUNT = 40
WHOLE = "".join(f"{index} " for index in range(COUNT))
BOUND_S = 15.0
"""Well above what it takes: a look at all jobs, and a lease."""
ASK = {"model": "tiny", "prompt": "Once", "max_tokens": COUNT, "stream": True, "seed": 1}
PREFIX = keys.queue_prefix(QUEUE)
OF_THE_QUEUE = {
    "doorbells": [QUEUE],
    "deadlines": [f"{PREFIX}deadlines"],
    "returned": [f"{PREFIX}returned"],
    "leases": [keys.leases(QUEUE)],
    "arrivals": [keys.arrivals(QUEUE)],
    "lines": [f"{PREFIX}waiting:*", f"{PREFIX}tenants:*", f"{PREFIX}served:*"],
    "counters": [keys.counters(QUEUE)],
    "workers": [keys.workers_of(QUEUE), keys.WORKERS, "penstock:worker:*"],
}
OF_THE_JOBS = {
    "jobs": ["penstock:{*}:job:*"],
    "journals": ["penstock:{*}:journal:*"],
    "where jobs are": ["penstock:locate:*"],
    "claims": ["penstock:{*}:claim:*"],
}
KINDS = {
    **OF_THE_QUEUE,
    **OF_THE_JOBS,
    "all sets of the queue": [one for found in OF_THE_QUEUE.values() for one in found],
}


def count_up(job: Job) -> Script:
    for index in range(COUNT):
        yield Tokens(job.id, index, (index,), f"{index} ")
    yield Finished(job.id, COUNT, FinishReason.STOP, Usage(1, COUNT))


class Subject:
    """An API process and two workers, one of which is about to die."""

    def __init__(self, fleet: Fleet, client: redis.Redis) -> None:
        self.server: ApiServer = fleet.api(keepalive_s=0.2)
        self.living: ScriptedWorker = fleet.worker(count_up)
        self.dying: ScriptedWorker = fleet.worker(count_up)
        self.redis = client
        for worker in (self.living, self.dying):
            worker.step_s = 0.01

    def let(self, worker: ScriptedWorker | None) -> None:
        """Let one worker claim jobs, and the other none."""
        for one in (self.living, self.dying):
            one.accepting = one is worker

    def delete(self, patterns: list[str]) -> None:
        found = [key for one in patterns for key in self.redis.scan_iter(one)]
        if found:
            self.redis.delete(*found)

    def ask(self) -> str:
        """Return the text of an answer, or its error."""
        with httpx.stream(
            "POST", f"{self.server.url}/v1/completions", json=ASK, timeout=BOUND_S
        ) as answer:
            assert answer.status_code == 200, answer.read()
            frames = [json.loads(line[6:]) for line in answer.iter_lines() if "{" in line]
        return "".join(
            json.dumps(frame["error"]) if "error" in frame else frame["choices"][0]["text"]
            for frame in frames
        )


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    own = RedisServer(tmp_path_factory.mktemp("store"))
    own.start()
    settings = Settings(redis_url=RedisDsn(own.url), lease_ms=300, max_attempts=100)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.callback(own.kill)
        patch.setattr(lifespan, "RECONCILE_INTERVAL_S", 0.2)
        client = stack.enter_context(connect(settings))
        yield Subject(Fleet(settings, stack), client)


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_comes(subject: Subject, kind: str) -> None:
    with ThreadPoolExecutor(3) as clients:
        answers = []
        for worker in (subject.dying, subject.living):
            subject.let(worker)
            before = len(worker.jobs)
            answers.append(clients.submit(subject.ask))
            wait_until(lambda w=worker, n=before: len(w.jobs) > n and w.running)
        subject.let(None)
        answers.append(clients.submit(subject.ask))
        wait_until(lambda: subject.redis.zcard(keys.arrivals(QUEUE)) == 1)
        subject.dying.running.clear()  # it writes and renews no more
        subject.delete(KINDS[kind])
        began_s = time.monotonic()
        subject.let(subject.living)
        assert [answer.result(BOUND_S) for answer in answers] == [WHOLE] * 3
        assert time.monotonic() - began_s < BOUND_S
    wait_until(lambda: not subject.redis.exists(keys.leases(QUEUE), keys.arrivals(QUEUE)))
