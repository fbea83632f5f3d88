"""Jobs at their queue's Redis, found from everywhere; two real servers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from penstock.clock import clock
from penstock.contract.worker import WorkerCard
from penstock.errors import BadSettings, StartupError, StoreUnavailable, UnknownJob, UnknownModel
from penstock.redis_addresses import HOME
from penstock.settings import Settings, load
from penstock.transport import keys
from penstock.transport.fleet.announcer import Announcer
from penstock.transport.fleet.registry import Registry
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.store.connection import connect
from penstock.transport.store.grouped import Grouped, close, connect_groups
from tests.fixtures.api import model_card
from tests.fixtures.clocks import HOUR_S
from tests.fixtures.jobs import make_job
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from penstock.transport.store.grouped import Stores
    from tests.fixtures.clocks import WallClock

HOME_QUEUE, LARGE_QUEUE = "m-cpu", "large-cpu"
DEADLINE_MS = 300


@pytest.fixture(params=[-1, 1], ids=["behind", "ahead"])
def large(
    request: pytest.FixtureRequest, wall_clock: WallClock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """The group's Redis, whose machine's clock is an hour off."""
    wall_clock.step(request.param * HOUR_S)
    server = RedisServer(tmp_path_factory.mktemp("large"), env=wall_clock.env)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def grouped_settings(redis_settings: Settings, large: RedisServer) -> Settings:
    groups = {"large": {"queues": ["large-*"], "url": large.url}}
    values = {"redis_groups": json.dumps(groups), "redis_patience_s": 1.0}
    return Settings(**{**redis_settings.model_dump(exclude={"redis_groups"}), **values})


@pytest.fixture
async def stores(grouped_settings: Settings) -> AsyncIterator[Stores]:
    made = connect_groups(grouped_settings)
    yield made
    await close(made)


async def test_a_job_is_stored_once_and_found_from_everywhere(
    stores: Stores, grouped_settings: Settings
) -> None:
    queue = JobQueue(stores, grouped_settings)
    for name, client, other in (
        (HOME_QUEUE, stores.home, stores.groups["large"]),
        (LARGE_QUEUE, stores.groups["large"], stores.home),
    ):
        job = make_job(queue=name)
        await queue.submit(job)
        assert await client.exists(f"penstock:{{{name}}}:job:{job.id}")
        assert not await other.exists(f"penstock:{{{name}}}:job:{job.id}")
        assert await queue.locate(job.id) == name
        assert (await queue.depth(name)).waiting_jobs == 1
        assert await queue.cancel(job.id) == "cancelled"
        await client.delete(name)


@pytest.mark.parametrize("name", [HOME_QUEUE, LARGE_QUEUE])
async def test_a_deadline_is_as_long_as_it_was_meant_to_be(
    stores: Stores, grouped_settings: Settings, name: str
) -> None:
    queue = JobQueue(stores, grouped_settings)
    now_ms = await queue.now_ms(name)
    seconds, _ = await stores.of(name).time()
    assert now_ms == pytest.approx(seconds * 1000, abs=5000)
    job = make_job(queue=name, created_ms=now_ms, deadline_ms=now_ms + DEADLINE_MS)
    await queue.submit(job)
    ends_s = time.monotonic() + DEADLINE_MS / 1000
    life_ms = await stores.of(name).pttl(keys.locate(job.id))
    assert 0 < life_ms <= DEADLINE_MS + grouped_settings.journal_ttl_s * 1000
    assert (await queue.reap(name)).expired == 0
    await asyncio.sleep(max(ends_s - time.monotonic(), 0) + 0.01)
    assert (await queue.reap(name)).expired == 1
    await stores.of(name).delete(name)


async def test_workers_ages_are_by_one_clock(stores: Stores, grouped_settings: Settings) -> None:
    for group, name in ((HOME, HOME_QUEUE), ("large", LARGE_QUEUE)):
        seconds, _ = await stores.of(name).time()
        announce(grouped_settings.in_group(group), name, at_ms=int(seconds * 1000))
    registry = Registry(stores, grouped_settings)
    await registry.refresh()
    for worker in registry.workers():
        assert worker.heartbeat_ms == worker.started_ms
        assert clock.now_ms() - worker.heartbeat_ms < 5000
    home, large = sorted(registry.served(), key=lambda served: served.card.queue != HOME_QUEUE)
    assert large.seen_s == pytest.approx(home.seen_s, abs=5)


async def test_an_unknown_job_is_unknown_only_if_every_redis_says_so(
    stores: Stores, grouped_settings: Settings, large: RedisServer
) -> None:
    queue = JobQueue(stores, grouped_settings)
    job = make_job(queue=HOME_QUEUE)
    await queue.submit(job)
    with pytest.raises(UnknownJob):
        await queue.state("nobody")
    large.kill()
    assert (await queue.state(job.id)).queue == HOME_QUEUE
    with pytest.raises(StoreUnavailable):
        await queue.state("nobody")
    await queue.cancel(job.id)
    await stores.home.delete(HOME_QUEUE)


def announce(settings: Settings, queue: str, at_ms: int = 0) -> None:
    card = model_card(name=queue.removesuffix("-cpu"), queue=queue)
    worker = WorkerCard(f"w-{queue}", "h", 1, "0", at_ms, at_ms, (card,), {})
    Announcer(connect(settings), settings).announce(worker)


async def test_models_of_a_redis_that_is_away_are_not_unknown(
    stores: Stores, grouped_settings: Settings, large: RedisServer
) -> None:
    announce(grouped_settings.in_group(HOME), HOME_QUEUE)
    announce(grouped_settings.in_group("large"), LARGE_QUEUE)
    registry = Registry(stores, grouped_settings)
    await registry.refresh()
    assert {served.card.queue for served in registry.served()} == {HOME_QUEUE, LARGE_QUEUE}
    with pytest.raises(UnknownModel):
        registry.resolve("other")
    large.kill()
    fresh = Registry(stores, grouped_settings)
    await fresh.refresh()  # the home Redis alone
    assert [served.card.queue for served in fresh.resolve("m")] == [HOME_QUEUE]
    with pytest.raises(StoreUnavailable):
        fresh.resolve("large")


async def test_a_queue_that_is_announced_elsewhere_takes_no_jobs(
    stores: Stores, grouped_settings: Settings
) -> None:
    announce(grouped_settings.in_group(HOME), LARGE_QUEUE)
    registry = Registry(stores, grouped_settings)
    await registry.refresh()
    assert registry.served() == ()
    with pytest.raises(UnknownModel):
        registry.resolve("large")


def test_a_worker_has_the_redis_of_its_queues(grouped_settings: Settings) -> None:
    ours = grouped_settings.for_queues(["large-cpu", "large-b-cpu"])
    assert ours.redis_url == grouped_settings.redis_groups["large"].url
    assert not ours.redis_groups
    assert grouped_settings.for_queues([HOME_QUEUE]).redis_url == grouped_settings.redis_url
    with pytest.raises(StartupError, match="large-cpu, m-cpu have different Redis"):
        grouped_settings.for_queues(["large-cpu", "m-cpu"])


def test_queues_are_split_by_their_redis(grouped_settings: Settings) -> None:
    split = Grouped("home", {"large": "there"}, grouped_settings.group_of)
    assert split.split(["a-cpu", "large-cpu", "b-cpu"]) == [
        ("home", ["a-cpu", "b-cpu"]),
        ("there", ["large-cpu"]),
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{", "it is not JSON"),
        ('{"a": {"queues": ["x-*"], "url": "http://:hush@h"}}', "a.url: begin with redis://"),
        ('{"a": {"queues": [], "url": "redis://:hush@h"}}', "a.queues: "),
        ('{"a": {"queues": ["x"], "url": "redis://:hush@h", "sentinels": ["h"]}}', "a.sentinels"),
        ('{"A b": {"queues": ["x"], "url": "redis://:hush@h"}}', "a group's name"),
    ],
)
def test_a_wrong_group_is_named_without_its_password(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_GROUPS", value)
    load.cache_clear()
    try:
        with pytest.raises(BadSettings) as caught:
            load()
    finally:
        load.cache_clear()
    assert caught.value.message.startswith("PENSTOCK_REDIS_GROUPS: ")
    assert reason in caught.value.message
    assert "hush" not in caught.value.message
