"""Jobs at their queue's Redis, found from everywhere; two real servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock.contract.worker import WorkerCard
from penstock.errors import BadSettings, StartupError, StoreUnavailable, UnknownJob, UnknownModel
from penstock.redis_addresses import HOME
from penstock.settings import Settings, load
from penstock.transport.fleet.announcer import Announcer
from penstock.transport.fleet.registry import Registry
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.store.connection import connect
from penstock.transport.store.grouped import Grouped, close, connect_groups
from tests.fixtures.api import model_card
from tests.fixtures.jobs import make_job
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from penstock.transport.store.grouped import Stores

HOME_QUEUE, LARGE_QUEUE = "m-cpu", "large-cpu"


@pytest.fixture
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("large"))
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


def announce(settings: Settings, queue: str) -> None:
    card = model_card(name=queue.removesuffix("-cpu"), queue=queue)
    worker = WorkerCard(f"w-{queue}", "h", 1, "0", 0, 0, (card,), {})
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
