"""The admin API of the page: the fleet, its last hour, jobs to cancel, workers to drain."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.transport.fleet.overview import Overview
from tests.fixtures.api import QUEUE, drone
from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import cards
from tests.integration.workers.test_station import Desk

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.settings import Settings
    from tests.fixtures.api import ApiServer, Fleet

CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def look(server: ApiServer, path: str = "/admin/fleet") -> dict[str, Any]:
    answer = httpx.get(f"{server.url}{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_fleet_at_rest(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker()
    seen = look(server)
    (queue,) = seen["queues"]
    assert (queue["queue"], queue["slots"], queue["live_workers"]) == (QUEUE, 8, 1)
    assert (queue["waiting_jobs"], queue["running"], queue["oldest_age_s"]) == (0, 0, 0)
    (worker,) = seen["workers"]
    assert worker["heartbeat_age_s"] < 5
    assert worker["drain_requested"] is False
    assert worker["models"][0]["kv_use"] == 0.25
    assert seen["jobs"] == []


def test_jobs_that_run_and_wait_are_listed_and_can_be_cancelled(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone, slots=1)
    stream = {**CHAT, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=stream) as first:
        lines = first.iter_lines()
        next(lines)
        with ThreadPoolExecutor(1) as aside:
            second = aside.submit(
                httpx.post, f"{server.url}/v1/chat/completions", json=CHAT, timeout=30
            )
            wait_until(lambda: len(look(server)["jobs"]) == 2)
            running, waiting = look(server)["jobs"]
            assert [running["status"], waiting["status"]] == ["running", "waiting"]
            assert running["tenant"] == "anonymous"
            assert running["worker"]
            assert waiting["tokens"] == 0
            assert look(server)["queues"][0]["waiting_jobs"] == 1
            for job, status in ((waiting, "cancelled"), (running, "requested")):
                answer = httpx.post(f"{server.url}/admin/jobs/{job['id']}/cancel")
                assert answer.json()["status"] == status
            assert second.result().json()["error"]["code"] == "cancelled"
        assert any("cancelled" in line for line in lines)
    wait_until(lambda: not worker.running)
    assert look(server)["jobs"] == []
    assert httpx.post(f"{server.url}/admin/jobs/nobody/cancel").status_code == 404


def test_the_history_adds_up_what_all_processes_measured(fleet: Fleet) -> None:
    one, other = fleet.api(), fleet.api()
    fleet.worker()
    for server in (one, other):
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert answer.json()["usage"]["completion_tokens"] == 4

    def whole() -> dict[str, list[Any]]:
        look(other, "/admin/fleet/history")  # its own figures are flushed by looking
        seen = look(one, "/admin/fleet/history?minutes=5")
        assert len(seen["minutes"]) == 5
        assert 0 <= seen["now_s"] - seen["minutes"][-1] < 60
        assert seen["queues"][QUEUE] == seen["queues"][""]
        return seen["queues"][""]

    wait_until(lambda: sum(whole()["answers"]) == 2)
    rows = whole()
    assert sum(rows["tokens"]) == 8
    assert sum(rows["prompt_tokens"]) == 6
    for kind in ("ttft", "itl"):
        (p50, *_), (p99, *_) = (
            [value for value in rows[f"{kind}_p{share}"] if value is not None] for share in (50, 99)
        )
        assert 0 < p50 <= p99 < 10


@pytest.mark.parametrize("minutes", ["0", "121", "x", "-1", "9999999999"])
def test_a_history_of_no_sensible_length(fleet: Fleet, minutes: str) -> None:
    answer = httpx.get(f"{fleet.api().url}/admin/fleet/history", params={"minutes": minutes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "minutes"


def test_the_keys_of_the_api_open_it_and_nothing_else_does(fleet: Fleet) -> None:
    server = fleet.api(api_keys=("secret",))
    paths = [("GET", "/admin/fleet"), ("GET", "/admin/fleet/history")]
    paths += [("POST", "/admin/workers/x/drain"), ("POST", "/admin/jobs/x/cancel")]
    for method, path in paths:
        assert httpx.request(method, server.url + path).status_code == 401
    headers = {"authorization": "Bearer secret"}
    assert httpx.get(f"{server.url}/admin/fleet", headers=headers).status_code == 200


def test_a_drain_is_requested_and_undone(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker()
    worker = look(server)["workers"][0]["id"]
    for verb, asked in (("drain", True), ("resume", False)):
        answer = httpx.post(f"{server.url}/admin/workers/{worker}/{verb}")
        assert answer.json()["drain_requested"] is asked
        assert look(server)["workers"][0]["drain_requested"] is asked
    assert httpx.post(f"{server.url}/admin/workers/nobody/drain").status_code == 404


async def test_a_worker_rests_on_request_and_reports_it(
    redis_client: redis.Redis, async_redis: redis.asyncio.Redis, redis_settings: Settings
) -> None:
    desk = Desk(redis_client, redis_settings)
    url = str(redis_settings.redis_url)
    try:
        wait_until(lambda: cards(url))
        overview = Overview(async_redis)
        await overview.ask_to_rest(desk.worker.worker_id, QUEUE, rest=True)
        wait_until(lambda: [card.draining for card in cards(url)] == [True])
        assert desk.worker.resting
        assert not desk.worker.draining
        await overview.ask_to_rest(desk.worker.worker_id, QUEUE, rest=False)
        wait_until(lambda: [card.draining for card in cards(url)] == [False])
        # The wish ends with the worker that it is for.
        await overview.ask_to_rest(desk.worker.worker_id, QUEUE, rest=True)
    finally:
        desk.drain()
    assert await overview.resting([desk.worker.worker_id]) == frozenset()
