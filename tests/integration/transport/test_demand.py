"""What workers that load models on demand read of a queue, and how one of them takes a load."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from penstock.transport import keys
from penstock.transport.jobs.demand import TRIES_LIFE_S, Demand, LoadOrders
from tests.fixtures.jobs import QUEUE, make_job

if TYPE_CHECKING:
    import redis

    from penstock.settings import Settings
    from penstock.transport.jobs.queue import JobQueue


@pytest.fixture
def orders(redis_client: redis.Redis, redis_settings: Settings) -> LoadOrders:
    return LoadOrders(redis_client, redis_settings, "worker-1")


async def test_what_waits_and_who_could_serve_it(
    jobs: JobQueue, orders: LoadOrders, redis_client: redis.Redis
):
    assert orders.waiting([QUEUE, "other-cpu"]) == {QUEUE: 0, "other-cpu": 0}
    assert orders.demand(QUEUE) == Demand(0, 0.0, -1, 0, 0, is_loading=False)
    for priority in (7, 3):
        await jobs.submit(make_job(id=f"job-{priority}", priority=priority))
    live_ms, dead_ms = int(time.time() * 1000) + 60_000, 1
    redis_client.zadd(keys.workers_of(QUEUE), {"worker-2": live_ms, "worker-3": dead_ms})
    redis_client.zadd(keys.loaders_of(QUEUE), {"worker-1": live_ms, "worker-4": live_ms})
    redis_client.set(keys.loading(QUEUE), "worker-4", px=60_000)
    demand = orders.demand(QUEUE)
    assert (demand.waiting, demand.priority, demand.is_loading) == (2, 3, True)
    assert (demand.claiming, demand.loaders) == (1, 1)
    assert 0.0 <= demand.oldest_s < 60.0
    assert orders.waiting([QUEUE]) == {QUEUE: 2}
    for job_id in ("job-7", "job-3"):
        await jobs.cancel(job_id)
    redis_client.delete(keys.workers_of(QUEUE), keys.loaders_of(QUEUE), keys.loading(QUEUE))


def test_one_worker_loads_and_loads_that_do_not_end_are_counted(
    orders: LoadOrders, redis_client: redis.Redis, redis_settings: Settings
):
    other = LoadOrders(redis_client, redis_settings, "worker-2")
    assert orders.begin(QUEUE) == 1
    assert other.begin(QUEUE) == 0
    redis_client.delete(keys.loading(QUEUE))  # its worker was killed
    assert other.begin(QUEUE) == 2
    assert 0 < redis_client.ttl(keys.load_tries(QUEUE)) <= TRIES_LIFE_S
    other.end(QUEUE, tried=False)
    assert orders.begin(QUEUE) == 3
    orders.end(QUEUE)
    assert orders.begin(QUEUE) == 1
    orders.end(QUEUE)


def test_a_key_of_another_type_is_no_waiting_job(orders: LoadOrders, redis_client: redis.Redis):
    redis_client.set(keys.arrivals(QUEUE), "foreign", px=60_000)
    assert orders.waiting([QUEUE]) == {QUEUE: 0}
    redis_client.delete(keys.arrivals(QUEUE))
