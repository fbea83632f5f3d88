"""More work than the fleet can do, and workers that die of it."""

from __future__ import annotations

import json
import random
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from pydantic import RedisDsn

from api.access.keys import tenant_of_key
from penstock.contract.events import Tokens
from penstock.errors import StoreUnavailable
from tests.fixtures.api import Fleet, keepalives, speak
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer
from tests.integration.api.test_resumption import ASK, WHOLE, count_up, frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.contract.job import Job
    from penstock.settings import Settings
    from tests.fixtures.api import ApiServer, Script

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)

SHORT: Any = {"model": "tiny", "prompt": "hello", "max_tokens": 1}


class Asking(threading.Thread):
    """One request and its answer."""

    def __init__(self, url: str, body: dict[str, Any], key: str = "") -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, body
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self.start()

    def run(self) -> None:
        self._answer = httpx.post(
            f"{self._url}/v1/completions", json=self._body, headers=self._headers, timeout=60.0
        )

    def answer(self) -> httpx.Response:
        self.join(60.0)
        return self._answer


def lasting(job: Job) -> Script:
    """Say one word, then nothing."""
    yield Tokens(job.id, 0, (0,), "well ")
    while True:
        yield None


# -- workers that die


def test_without_a_worker_a_stream_waits_for_its_deadline(fleet: Fleet) -> None:
    server = fleet.api(deadline_s=3.0, keepalive_s=0.3)
    worker = fleet.worker(lasting)
    lines: list[str] = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=ASK) as answer:
        seen = answer.iter_lines()
        while not any("well" in line for line in lines):
            lines.append(next(seen))
        worker._stop.set()  # as if killed: nothing is handed back
        lines.extend(seen)
    assert keepalives(lines) >= 3
    (last,) = [line for line in lines if line.startswith("data: {")][-1:]
    assert json.loads(last[6:])["error"]["code"] == "deadline_exceeded"
    assert "data: [DONE]" not in lines


def test_a_job_that_three_workers_did_not_survive_is_given_up(fleet: Fleet) -> None:
    def deadly(job: Job) -> Script:
        if "poison" not in str(job.work.prompt):
            yield from speak(job)
            return
        yield Tokens(job.id, 0, (0,), "well ")
        raise StoreUnavailable("this worker forgets everything, as a killed one does")

    server = fleet.api(keepalive_s=0.2)
    worker = fleet.worker(deadly)
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**ASK, "prompt": "poison"}, timeout=30.0
    ) as answer:
        frames_seen = [line for line in answer.iter_lines() if line.startswith("data: {")]
    assert json.loads(frames_seen[-1][6:])["error"]["code"] == "poison_job"
    assert sum("well" in line for line in frames_seen) == 1, "no token came twice"
    assert len(worker.jobs) == 3, "it did not get at a fourth"
    after = httpx.post(f"{server.url}/v1/completions", json=SHORT)
    assert after.json()["choices"][0]["text"] == "once "


# -- turns


@pytest.fixture
def guarded(fleet: Fleet) -> ApiServer:
    return fleet.api(api_keys=("greedy", "modest"))


def test_a_tenant_with_many_jobs_does_not_delay_another(fleet: Fleet, guarded: ApiServer) -> None:
    worker = fleet.worker(slots=1)
    worker.accepting = False
    # A request of 20 prompts is 20 jobs.
    many = [Asking(guarded.url, {**SHORT, "prompt": ["hello"] * 20}, "greedy") for _ in range(12)]
    wait_until(lambda: fleet.depth().waiting_jobs == 240, 60.0)
    one = Asking(guarded.url, SHORT, "modest")
    wait_until(lambda: fleet.depth().waiting_jobs == 241)
    worker.accepting = True
    assert one.answer().status_code == 200
    tenants = [job.tenant for job in worker.jobs]
    assert tenants.index(tenant_of_key("modest")) <= 1, "it waited for more than one turn"
    for asking in many:
        assert len(asking.answer().json()["choices"]) == 20


def test_priorities_go_first(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(slots=1)
    worker.accepting = False
    order = random.Random(1).sample(range(10), 10)
    asking = [Asking(server.url, {**SHORT, "priority": priority}) for priority in order]
    wait_until(lambda: fleet.depth().waiting_jobs == 10)
    worker.accepting = True
    assert all(one.answer().status_code == 200 for one in asking)
    assert [job.priority for job in worker.jobs] == list(range(10))


def test_when_to_come_back_is_what_the_queue_takes(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=4)
    worker = fleet.worker(slots=1)
    for _ in range(10):
        assert httpx.post(f"{server.url}/v1/completions", json=SHORT).status_code == 200
    worker.accepting = False
    waiting = [Asking(server.url, SHORT) for _ in range(4)]
    wait_until(lambda: fleet.depth().waiting_jobs == 4)
    refused = httpx.post(f"{server.url}/v1/completions", json=SHORT)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 5, "ten jobs just went in a moment"
    worker.accepting = True
    assert all(one.answer().status_code == 200 for one in waiting)


# -- a Redis that is full, or away for longer than we wait


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_fleet(own_redis: RedisServer, redis_settings: Settings) -> Iterator[Fleet]:
    settings = redis_settings.model_copy(
        update={"redis_url": RedisDsn(own_redis.url), "redis_patience_s": 1.0, "lease_ms": 2000}
    )
    with ExitStack() as stack:
        yield Fleet(settings, stack)


def test_a_full_redis_refuses_new_jobs_and_ends_old_ones(
    own_fleet: Fleet, own_redis: RedisServer
) -> None:
    server = own_fleet.api()
    worker = own_fleet.worker(count_up)
    worker.step_s = 0.03
    with (
        redis.Redis(port=own_redis.port) as client,
        httpx.stream("POST", f"{server.url}/v1/completions", json=ASK, timeout=30.0) as answer,
    ):
        seen = frames(answer)
        text = next(seen)[1]
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 100_000)  # far below what it uses
        refused = httpx.post(f"{server.url}/v1/completions", json=ASK)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
        assert text != WHOLE
        text += "".join(piece for _, piece in seen)
        assert text == WHOLE
        client.config_set("maxmemory", 0)
    worker.step_s = 0.001
    assert len(worker.jobs) == 1
    again = httpx.post(f"{server.url}/v1/completions", json={**ASK, "stream": False})
    assert again.json()["choices"][0]["text"] == WHOLE


def test_past_our_patience_requests_are_refused_and_leave_nothing(
    own_fleet: Fleet, own_redis: RedisServer
) -> None:
    server = own_fleet.api()
    worker = own_fleet.worker()
    assert httpx.post(f"{server.url}/v1/completions", json=SHORT).status_code == 200
    own_redis.kill()
    refused = httpx.post(f"{server.url}/v1/completions", json=ASK, timeout=30.0)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    own_redis.start()
    after = wait_until(
        lambda: (
            (found := httpx.post(f"{server.url}/v1/completions", json=SHORT)).status_code == 200
            and found
        ),
        30.0,
    )
    assert after.json()["choices"][0]["text"] == "once "
    prompts = [job.work.sampling.max_tokens for job in worker.jobs]
    assert prompts == [1, 1], "the refused job never ran"
    depth = own_fleet.depth()
    assert (depth.waiting_jobs, depth.running) == (0, 0)
