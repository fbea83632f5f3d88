"""API keys and their limits, over a real Redis, a scripted worker and OpenAI's SDK."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from api import lifespan
from penstock import settings as penstock_settings
from penstock.cli.application import app
from penstock.contract.events import Tokens
from penstock.transport import keys
from penstock.transport.accounts.keyring import FRESH_S, KeyDesk, Keyring
from penstock.transport.accounts.limits import Limits
from penstock.transport.accounts.quotas import Quotas
from penstock.transport.store.connection import connect_async
from tests.fixtures.api import drone
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import establish

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.settings import Settings
    from penstock.transport.accounts.keyring import KeyCard
    from tests.fixtures.api import ApiServer, Fleet

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def desk(redis_client: redis.Redis) -> Iterator[KeyDesk]:
    """Where keys are made; the test's keys go with it."""
    yield KeyDesk(redis_client, 5.0)
    redis_client.delete(keys.API_KEYS)


_clients: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def sdk(server: ApiServer, key: str) -> openai.OpenAI:
    """Return a client that is closed at the test's end."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    _clients.append(client)
    return client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 4, **fields}
    return client.chat.completions.with_raw_response.create(**asked)


def test_only_a_hash_is_stored(desk: KeyDesk, redis_client: redis.Redis) -> None:
    card, secret = desk.make("ann", requests_per_min=3)
    stored = json.dumps(str(redis_client.hgetall(keys.API_KEYS)))
    assert secret not in stored
    assert secret[:-4] not in stored
    assert desk.cards() == (card,)
    assert len(secret) > 40
    assert desk.revoke("bob") == ()
    assert desk.revoke(card.id) == (card,)
    assert desk.cards() == ()


def test_keys_come_and_go(fleet: Fleet, desk: KeyDesk) -> None:
    server = fleet.api()
    worker = fleet.worker()
    ask(sdk(server, "none"))  # nobody has made a key yet
    card, secret = desk.make("ann")
    wait_until(lambda: httpx.get(f"{server.url}/v1/models").status_code == 401)
    ask(sdk(server, secret))
    assert worker.jobs[-1].tenant == card.id
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/v1/models", headers={"x-api-key": secret}).status_code == 200
        assert http.get("/v1/models", headers={"x-api-key": secret + "x"}).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        ask(sdk(server, "none"))
    desk.revoke("ann")

    def is_refused() -> bool:
        try:
            ask(sdk(server, secret))
        except openai.AuthenticationError:
            return True
        return False

    wait_until(is_refused, FRESH_S + 10)  # and the API does not open again: no key is left


def test_lost_keys_open_nothing(
    fleet: Fleet, desk: KeyDesk, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "FLUSH_INTERVAL_S", 0.05)
    running = fleet.api()
    desk.make("ann")

    def is_closed(url: str) -> bool:
        return httpx.get(f"{url}/v1/models").status_code == 401

    wait_until(lambda: is_closed(running.url))
    redis_client.flushall()
    establish(redis_client)
    wait_until(lambda: redis_client.exists(keys.KEYS_REQUIRED))
    assert redis_client.ttl(keys.KEYS_REQUIRED) > 0
    assert is_closed(running.url)
    assert is_closed(fleet.api().url), "it has never seen a key"


def test_a_key_may_be_required_before_one_is_made(fleet: Fleet, desk: KeyDesk) -> None:
    server = fleet.api(require_key=True)
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_keys_of_the_settings_still_work(fleet: Fleet, desk: KeyDesk) -> None:
    desk.make("ann")
    server = fleet.api(api_keys=("sesame",))
    fleet.worker()
    ask(sdk(server, "sesame"))
    with pytest.raises(openai.AuthenticationError):
        ask(sdk(server, "other"))


def test_expiry(fleet: Fleet, desk: KeyDesk) -> None:
    server = fleet.api()
    _, secret = desk.make("ann", expires_s=int(time.time()) - 1)
    with pytest.raises(openai.AuthenticationError):
        sdk(server, secret).models.list()


def test_models_and_priority(fleet: Fleet, desk: KeyDesk) -> None:
    _, secret = desk.make("ann", models=("tiny",), priority=7)
    server = fleet.api()
    worker = fleet.worker()
    fleet.worker(name="other", queue="other-cpu", aliases=())
    client = sdk(server, secret)
    ask(client, extra_body={"priority": 0})
    assert worker.jobs[-1].priority == 7
    ask(client, model="org/tiny", extra_body={"priority": 8})
    assert worker.jobs[-1].priority == 8
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client, model="other")
    assert caught.value.param == "model"
    assert {model.id for model in client.models.list()} == {"tiny", "org/tiny"}
    with pytest.raises(openai.PermissionDeniedError):
        client.models.retrieve("other")


def test_only_administrators_operate_the_fleet(fleet: Fleet, desk: KeyDesk) -> None:
    _, plain = desk.make("ann")
    _, admin = desk.make("root", admin=True)
    server = fleet.api()
    fleet.worker()
    for key, status in ((plain, 403), (admin, 200), ("x", 401)):
        answer = httpx.get(f"{server.url}/admin/fleet", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status


def test_requests_a_minute(fleet: Fleet, desk: KeyDesk) -> None:
    _, secret = desk.make("ann", requests_per_min=2)
    _, other = desk.make("bob", requests_per_min=2)
    server = fleet.api()
    second = fleet.api()  # limits are the fleet's, not a process's
    fleet.worker()
    first = ask(sdk(server, secret))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert "x-ratelimit-limit-tokens" not in first.headers
    stream = ask(sdk(second, secret), stream=True)
    assert stream.headers["x-ratelimit-remaining-requests"] == "0"
    list(stream.parse())
    with pytest.raises(openai.RateLimitError) as caught:
        ask(sdk(server, secret))
    assert caught.value.code == "rate_limit_exceeded"
    answer = caught.value.response
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    ask(sdk(server, other))


def test_tokens_a_minute_are_settled(
    fleet: Fleet, desk: KeyDesk, redis_client: redis.Redis
) -> None:
    card, secret = desk.make("ann", tokens_per_min=400)
    server = fleet.api()
    fleet.worker()
    client = sdk(server, secret)

    def left() -> float:
        return float(redis_client.hget(keys.limit(card.id), "tokens") or 0)

    first = ask(client, max_tokens=300)
    assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 100
    # 3 tokens of prompt and 4 words were used.
    wait_until(lambda: 390 < left() <= 400)
    # More than a whole minute's: it may go while the bucket is full, and is paid for after.
    with pytest.raises(openai.RateLimitError):
        ask(client, max_tokens=100_000)
    wait_until(lambda: redis_client.ttl(keys.limit(card.id)) < 10)


def test_a_client_that_goes_pays_for_what_it_got(
    fleet: Fleet, desk: KeyDesk, redis_client: redis.Redis
) -> None:
    card, secret = desk.make("ann", tokens_per_min=1_000)
    server = fleet.api()
    fleet.worker(drone)
    with sdk(server, secret).chat.completions.create(
        model="tiny", messages=HELLO, stream=True, max_tokens=500
    ) as stream:
        next(iter(stream))
    wait_until(lambda: redis_client.xlen(keys.USAGE) == 1)
    entries: Any = redis_client.xrange(keys.USAGE)
    [(_, fields)] = entries
    row = json.loads(fields[b"r"])
    assert row["outcome"] == "cancelled"
    assert row["key"] == card.id
    assert 0 < row["completion_tokens"] < 400
    # The row comes first, then what was taken too much is given back.
    wait_until(lambda: float(redis_client.hget(keys.limit(card.id), "tokens") or 0) > 500)


async def test_buckets_fill_evenly(redis_settings: Settings, desk: KeyDesk) -> None:
    card, _ = desk.make("ann", requests_per_min=600)
    async with connect_async(redis_settings) as client:
        limits = Limits(client, redis_settings)
        taken = [await limits.take(card, 0) for _ in range(600)]
        assert all(allowance.wait_s == 0 for allowance in taken[:550])
        while not (refused := await limits.take(card, 0)).wait_s:
            pass
        assert 0 < refused.wait_s <= 0.1
        await asyncio.sleep(refused.wait_s)
        assert (await limits.take(card, 0)).wait_s == 0


async def test_a_known_key_outlives_a_short_absence(
    redis_settings: Settings, desk: KeyDesk
) -> None:
    _, secret = desk.make("ann")
    client = connect_async(redis_settings)
    ring = Keyring(client, redis_settings)
    assert await ring.find(secret) is not None
    assert await ring.is_used()
    broken: Any = None

    async def gone(*_: Any) -> Any:
        nonlocal broken
        broken = True
        raise ConnectionError

    ring._redis = type("Gone", (), {"hget": gone, "hlen": gone})()
    ring._cached = {field: (at - 2 * FRESH_S, card) for field, (at, card) in ring._cached.items()}
    assert await ring.find(secret) is not None
    assert broken
    await client.aclose()


async def test_requests_that_come_together_ask_for_a_key_once(
    redis_settings: Settings, desk: KeyDesk, redis_client: redis.Redis
) -> None:
    _, secret = desk.make("ann")
    async with connect_async(redis_settings) as client:
        ring = Keyring(client, redis_settings)
        redis_client.config_resetstat()
        cards = await asyncio.gather(*(ring.find(secret) for _ in range(20)))
        used = await asyncio.gather(*(ring.is_used() for _ in range(20)))
    calls = redis_client.info("commandstats")
    assert {card and card.name for card in cards} == {"ann"}
    assert all(used)
    assert [calls[f"cmdstat_{name}"]["calls"] for name in ("hget", "hlen")] == [1, 1]


def command(settings: Settings, *arguments: str) -> Any:
    """Run `penstock` in this process, which has other settings."""
    penstock_settings.load.cache_clear()
    try:
        return CliRunner().invoke(
            app, arguments, env={"PENSTOCK_REDIS_URL": str(settings.redis_url)}
        )
    finally:
        penstock_settings.load.cache_clear()


def usage_rows(settings: Settings, *arguments: str) -> list[dict[str, str]]:
    done = command(settings, "usage", *arguments)
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_the_usage_log(fleet: Fleet, desk: KeyDesk, redis_client: redis.Redis) -> None:
    card, secret = desk.make("ann")
    _, other = desk.make("=bob")
    server = fleet.api()

    def script(job: Any) -> Any:
        if job.model == "tiny" and job.work.sampling.max_tokens == 1:
            from penstock.contract.events import Failed

            yield Tokens(job.id, 0, (1,), "a", prompt_tokens=3)
            yield Failed(job.id, 1, "engine_failed", "it broke")
        from tests.fixtures.api import speak

        yield from speak(job)

    fleet.worker(script)
    ask(sdk(server, secret), n=2, extra_headers={"x-request-id": "mine"})
    ask(sdk(server, other))
    with pytest.raises(openai.InternalServerError):
        ask(sdk(server, other), max_tokens=1)
    wait_until(lambda: redis_client.xlen(keys.USAGE) == 3)
    assert redis_client.ttl(keys.USAGE) > 86_400
    rows = usage_rows(fleet.settings)
    first = rows[0]
    assert first["key"] == card.id
    assert first["key_name"] == "ann"
    assert first["model"] == "tiny"
    assert first["outcome"] == "ok"
    assert first["request_id"] == "mine"
    # Both answers have one prompt, as the answer's own usage says.
    assert [first[name] for name in ("prompt_tokens", "completion_tokens", "answers")] == [
        "3", "8", "2",
    ]  # fmt: skip
    assert rows[2]["outcome"] == "engine_failed"
    assert rows[2]["completion_tokens"] == "1"
    assert {row["key_name"] for row in rows} == {"ann", "'=bob"}
    assert len(usage_rows(fleet.settings, "--key", "ann")) == 1
    totals = {row["key_name"]: row for row in usage_rows(fleet.settings, "--total")}
    assert totals["'=bob"]["requests"] == "2"
    assert totals["ann"]["completion_tokens"] == "8"


def test_the_usage_log_may_be_off(fleet: Fleet, redis_client: redis.Redis) -> None:
    server = fleet.api(usage_log_rows=0)
    fleet.worker()
    ask(sdk(server, "none"))
    server.stop()
    assert redis_client.xlen(keys.USAGE) == 0


def test_cors(fleet: Fleet) -> None:
    server = fleet.api(cors_origins=("https://a.example",), api_keys=("sesame",))
    preflight = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    with httpx.Client(base_url=server.url) as http:
        answer = http.options("/v1/chat/completions", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        refused = http.get("/v1/models", headers={"origin": "https://a.example"})
        assert refused.status_code == 401  # and yet readable for the page
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-ratelimit-remaining-tokens" in refused.headers["access-control-expose-headers"]
        other = http.get("/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    plain = fleet.api()
    answer = httpx.get(f"{plain.url}/v1/models", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_command(redis_settings: Settings, desk: KeyDesk) -> None:
    done = command(
        redis_settings, "keys", "create", "ann", "--requests-per-minute", "5", "--model", "a",
        "--model", "b", "--expires", "2d", "--priority", "3",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    [card] = desk.cards()
    assert secret.endswith(card.hint)
    assert (card.name, card.requests_per_min, card.models) == ("ann", 5, ("a", "b"))
    assert card.priority == 3
    assert card.expires_s is not None
    assert 172_000 < card.expires_s - time.time() <= 172_800
    listed = json.loads(command(redis_settings, "keys", "list", "--json").stdout)
    assert listed[0]["id"] == card.id
    assert secret not in json.dumps(listed)
    table = command(redis_settings, "keys", "list").stdout
    assert card.id in table.replace("\n", "") or "key-" in table
    assert command(redis_settings, "keys", "revoke", "nobody").exit_code == 1
    assert command(redis_settings, "keys", "revoke", "ann").exit_code == 0
    assert desk.cards() == ()
    as_json = json.loads(command(redis_settings, "keys", "create", "bob", "--json").stdout)
    assert as_json["key"].startswith("sk-penstock-")


def test_card_fields_have_defaults(desk: KeyDesk) -> None:
    card, _ = desk.make("ann")
    plain: KeyCard = card
    assert (plain.models, plain.admin, plain.expires_s) == ((), False, None)


def test_a_quota_is_used_up_by_what_was_really_used(
    fleet: Fleet, desk: KeyDesk, redis_client: redis.Redis
) -> None:
    card, secret = desk.make("ann", tokens_per_day=20, tokens_per_month=1_000)
    server = fleet.api()
    fleet.worker()
    client = sdk(server, secret)
    now = time.gmtime()
    day, month = (keys.quota(card.id, time.strftime(form, now)) for form in ("%Y-%m-%d", "%Y-%m"))
    try:
        # Three of the prompt and four of the answer, though far more was asked for.
        for used in (7, 14, 21):
            ask(client, max_tokens=400)
            wait_until(lambda used=used: redis_client.get(day) == str(used).encode())
        assert redis_client.get(month) == b"21"
        assert 0 < redis_client.ttl(day) <= 2 * 86_400
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert caught.value.code == caught.value.type == "insufficient_quota"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 86_400
        assert redis_client.get(day) == b"21"  # what is refused takes nothing
        listed = json.loads(command(fleet.settings, "keys", "list", "--json").stdout)
        assert listed[0]["used_tokens"] == {"day": 21, "month": 21}
        other = sdk(server, desk.make("bob")[1])
        ask(other)  # has no quota
    finally:
        redis_client.delete(day, month)


def test_requests_at_once_do_not_overdraw_a_quota(fleet: Fleet, desk: KeyDesk) -> None:
    card, _ = desk.make("ann", tokens_per_month=100)

    async def take() -> list[str]:
        async with connect_async(fleet.settings) as client:
            quotas = Quotas(client, fleet.settings)
            taken = await asyncio.gather(*(quotas.take(card, 40) for _ in range(8)))
            admitted = [one for one in taken if not one.over]
            for one in admitted:
                await quotas.settle(one, -40)
            assert not (await quotas.take(card, 1)).over
            for name in [name for _, name in admitted[0].names]:
                await client.delete(name)
            return [one.over for one in taken]

    overs = asyncio.run(take())
    assert 1 <= overs.count("") <= 3
    assert set(overs) == {"", "month"}


def test_the_log_names_the_endpoint(fleet: Fleet, redis_client: redis.Redis) -> None:
    client = sdk(fleet.api(), "none")
    fleet.worker()
    ask(client)
    client.completions.create(model="tiny", prompt="a")
    client.responses.create(model="tiny", input="a", store=False)
    wait_until(lambda: redis_client.xlen(keys.USAGE) == 3)
    assert sorted(row["endpoint"] for row in usage_rows(fleet.settings)) == [
        "/v1/chat/completions", "/v1/completions", "/v1/responses",
    ]  # fmt: skip
