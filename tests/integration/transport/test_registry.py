from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad
from penstock.errors import NoWorker, StoreUnavailable, UnknownModel
from penstock.transport import keys
from penstock.transport.fleet.registry import Announcer, Registry
from penstock.transport.jobs.queue import JobQueue
from penstock.transport.store.connection import connect, connect_async
from tests.fixtures.jobs import make_job, wait_until_async
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    import redis.asyncio

    from penstock.settings import Settings


def model(queue: str = "demo-cpu", **fields: Any) -> ModelCard:
    defaults: dict[str, Any] = {
        "name": queue.rsplit("-", 1)[0],
        "queue": queue,
        "device": queue.rsplit("-", 1)[1],
        "backend": "transformers",
        "format": "bf16",
        "architecture": "LlamaForCausalLM",
        "parameters": 1,
        "weights_bytes": 2,
        "context_length": 128,
        "vocab_size": 256,
        "slots": 4,
        "kv_cache_tokens": 512,
    }
    return ModelCard(**{**defaults, **fields})


def worker(name: str = "w1", *models: ModelCard, **fields: Any) -> WorkerCard:
    defaults: dict[str, Any] = {
        "host": "here",
        "pid": 1,
        "version": "0",
        "started_ms": 0,
        "heartbeat_ms": 0,
        "models": models or (model(),),
    }
    return WorkerCard(id=name, **{**defaults, **fields})


@pytest.fixture
def settings(redis_settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Heartbeats of two seconds, or of a test's own: a worker without one is dead after five."""
    heartbeat_s = getattr(request, "param", 2.0)
    return redis_settings.model_copy(update={"heartbeat_s": heartbeat_s, "worker_grace_s": 1.0})


@pytest.fixture
def announcer(redis_client: redis.Redis, settings: Settings) -> Announcer:
    return Announcer(redis_client, settings)


@pytest.fixture
def registry(async_redis: redis.asyncio.Redis, settings: Settings) -> Registry:
    return Registry(async_redis, settings)


async def test_an_announced_worker_is_seen(registry: Registry, announcer: Announcer) -> None:
    card = worker(loads={"demo-cpu": WorkerLoad(running=2, kv_use=0.5)})
    announcer.announce(card)
    await registry.refresh()
    assert registry.workers() == (card,)
    assert registry.models() == card.models
    (served,) = registry.resolve("demo")
    assert (served.card, served.workers) == (card.models[0], (card,))
    assert (served.load.running, served.load.kv_use) == (2, 0.5)
    assert registry.pick("demo") == card.models[0]


async def test_names_aliases_and_queues(registry: Registry, announcer: Announcer) -> None:
    announcer.announce(worker("w1", model("a-cpu", aliases=("gpt-4",)), model("b-cpu")))
    await registry.refresh()
    for name in ("a", "gpt-4", "a-cpu"):
        assert registry.pick(name).queue == "a-cpu"
    with pytest.raises(UnknownModel):
        registry.resolve("c")


async def test_loads_of_a_queues_workers_add_up(registry: Registry, announcer: Announcer) -> None:
    for name, use in (("w1", 0.2), ("w2", 0.6)):
        load = WorkerLoad(running=3, waiting=1, kv_use=use, decode_tokens_per_s=10.0)
        announcer.announce(worker(name, loads={"demo-cpu": load}))
    await registry.refresh()
    (served,) = registry.resolve("demo")
    assert len(served.workers) == 2
    assert (served.load.running, served.load.waiting) == (6, 2)
    assert served.load.kv_use == pytest.approx(0.4)
    assert served.load.decode_tokens_per_s == 20.0


@pytest.mark.parametrize("settings", [0.1], indirect=True)
async def test_a_dead_worker_is_gone_within_five_heartbeats_and_the_model_after_its_grace(
    registry: Registry, announcer: Announcer
) -> None:
    announcer.announce(worker())
    await registry.refresh()
    started_s = asyncio.get_running_loop().time()

    async def gone() -> bool:
        await registry.refresh()
        return not registry.models()

    await wait_until_async(gone, 5)
    assert asyncio.get_running_loop().time() - started_s < 1.0
    (served,) = registry.resolve("demo")  # jobs are still accepted
    assert served.workers == ()
    assert registry.pick("demo").queue == "demo-cpu"

    async def out_of_grace() -> bool:
        await registry.refresh()
        try:
            registry.resolve("demo")
        except NoWorker:
            return True
        return False

    await wait_until_async(out_of_grace, 5)


async def test_a_withdrawn_worker_is_gone_at_once(registry: Registry, announcer: Announcer) -> None:
    announcer.announce(worker("w1"))
    announcer.announce(worker("w2"))
    announcer.withdraw("w1", ["demo-cpu"])
    await registry.refresh()
    assert [one.id for one in registry.workers()] == ["w2"]


async def test_a_draining_worker_serves_nothing_new(
    registry: Registry, announcer: Announcer
) -> None:
    announcer.announce(worker(draining=True))
    await registry.refresh()
    assert len(registry.workers()) == 1
    assert registry.models() == ()
    assert registry.resolve("demo")[0].workers == ()  # within the grace time


async def test_every_key_of_the_registry_expires(
    announcer: Announcer, redis_client: redis.Redis
) -> None:
    announcer.announce(worker())
    assert all(redis_client.ttl(key) >= 0 for key in redis_client.scan_iter())


class TestPick:
    async def test_the_faster_device_until_it_is_full(
        self, registry: Registry, announcer: Announcer
    ) -> None:
        cpu, gpu = model("demo-cpu", slots=4), model("demo-cuda", slots=4)
        announcer.announce(worker("w1", cpu))
        announcer.announce(worker("w2", gpu))
        await registry.refresh()
        assert registry.pick("demo").device == "cuda"
        announcer.announce(worker("w2", gpu, loads={"demo-cuda": WorkerLoad(4, 400)}))
        await registry.refresh()
        assert registry.pick("demo").device == "cpu"

    async def test_measured_speed_beats_the_assumed_one(
        self, registry: Registry, announcer: Announcer
    ) -> None:
        slow, fast = WorkerLoad(decode_tokens_per_s=20.0), WorkerLoad(decode_tokens_per_s=80.0)
        announcer.announce(worker("w1", model("demo-cuda"), loads={"demo-cuda": slow}))
        announcer.announce(worker("w2", model("demo-cpu"), loads={"demo-cpu": fast}))
        await registry.refresh()
        assert registry.pick("demo").device == "cpu"

    async def test_a_burst_between_two_refreshes_is_spread(
        self, registry: Registry, announcer: Announcer
    ) -> None:
        announcer.announce(worker("w1", model("demo-cpu")))
        announcer.announce(worker("w2", model("demo-cpu.1", name="demo", device="cpu.1")))
        await registry.refresh()
        picked = [registry.pick("demo").queue for _ in range(10)]
        assert picked.count("demo-cpu") == picked.count("demo-cpu.1") == 5

    async def test_waiting_jobs_count(
        self,
        registry: Registry,
        announcer: Announcer,
        async_redis: redis.asyncio.Redis,
        redis_client: redis.Redis,
        settings: Settings,
    ) -> None:
        announcer.announce(worker("w1", model("demo-cpu")))
        announcer.announce(worker("w2", model("demo-cpu.1", name="demo", device="cpu.1")))
        jobs = JobQueue(async_redis, settings)
        for _ in range(8):
            await jobs.submit(make_job(queue="demo-cpu"))
        await registry.refresh()
        assert {one.card.queue: one.waiting_jobs for one in registry.resolve("demo")} == {
            "demo-cpu": 8,
            "demo-cpu.1": 0,
        }
        assert {registry.pick("demo").queue for _ in range(8)} == {"demo-cpu.1"}
        redis_client.delete("demo-cpu")


async def test_the_last_view_serves_while_redis_is_away_and_not_for_ever(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.transport.fleet.registry.REFRESH_S", 0.05)
    server = RedisServer(tmp_path)
    server.start()
    update = {"redis_url": server.url, "redis_patience_s": 1.0, "heartbeat_s": 10.0}
    settings = settings.model_copy(update=update)
    try:
        async with connect_async(settings) as client:
            registry = Registry(client, settings)
            with connect(settings) as sync_client:
                Announcer(sync_client, settings).announce(worker())
            await registry.start()
            assert registry.models()
            server.kill()
            await asyncio.sleep(0.3)
            assert registry.pick("demo").queue == "demo-cpu"
            await wait_until_async(lambda: not registry.models())
            assert registry.workers() == ()
            with pytest.raises(StoreUnavailable):
                registry.resolve("demo")
            await asyncio.to_thread(server.start)
            with connect(settings) as sync_client:
                Announcer(sync_client, settings).announce(worker())
            await wait_until_async(registry.models)
            await registry.stop()
    finally:
        server.kill()


async def test_before_the_first_view_nothing_is_known(registry: Registry) -> None:
    assert registry.models() == ()
    with pytest.raises(StoreUnavailable):
        registry.resolve("demo")


async def test_after_a_loss_of_memory_no_model_is_unknown_for_some_heartbeats(
    async_redis: redis.asyncio.Redis, redis_settings: Settings
) -> None:
    settings = redis_settings.model_copy(update={"heartbeat_s": 0.1})
    registry = Registry(async_redis, settings)
    await registry.refresh()
    with pytest.raises(UnknownModel):
        registry.resolve("nothing")
    await async_redis.flushall()
    await registry.refresh()
    other = Registry(async_redis, settings)  # a process that is started in that moment
    await other.refresh()
    for one in (registry, other):
        with pytest.raises(NoWorker, match="announcing") as caught:
            one.resolve("nothing")
        assert caught.value.retry_after_s
        assert 0 < caught.value.retry_after_s <= 5.5
    began_ms = int(await async_redis.get(keys.STORE) or 0)
    await async_redis.set(keys.STORE, began_ms - 6_000, keepttl=True)
    for one in (registry, other):
        await one.refresh()
        with pytest.raises(UnknownModel):
            one.resolve("nothing")
    assert await async_redis.ttl(keys.STORE) > 80_000


async def test_a_mark_of_another_type_is_set_again(
    async_redis: redis.asyncio.Redis, redis_settings: Settings
) -> None:
    await async_redis.delete(keys.STORE)
    await async_redis.lpush(keys.STORE, "x")
    registry = Registry(async_redis, redis_settings)
    await registry.refresh()
    await registry.refresh()
    assert (await async_redis.get(keys.STORE) or b"").isdigit()
