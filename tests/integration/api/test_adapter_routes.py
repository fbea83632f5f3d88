"""Loading and unloading adapters: what the API decides before and after a worker has checked one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.admin import adapters as routes
from penstock.contract.adapter import LONGEST_NAME, LONGEST_PATH, AdapterCard
from penstock.contract.tokenizer_calls import LoadAdapter, TokenizerCall, TokenizerReply
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.fleet import adapters
from penstock.transport.replies import tokenizer_calls
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.settings import Settings
    from tests.fixtures.api import Fleet

SQL = AdapterCard("sql", "0" * 32, "/adapters/sql", 8, 1_700_000_000)


@pytest.fixture(autouse=True)
def desk(redis_settings: Settings, redis_client: redis.Redis) -> Iterator[None]:
    """Answer calls as a worker with one folder, `sql`, would; forget what was loaded."""
    ended = threading.Event()

    def serve() -> None:
        with connect(redis_settings) as client:
            while not ended.is_set():
                call = tokenizer_calls.take(client, [QUEUE], timeout_s=0.1)
                if not isinstance(call, TokenizerCall):
                    continue
                assert isinstance(call.call, LoadAdapter)
                reply = TokenizerReply(
                    call.id, error_code="invalid_parameter", error_message="none"
                )
                if call.call.path == "sql":
                    card = AdapterCard(call.call.name, SQL.digest, SQL.path, 8, SQL.created_s)
                    reply = TokenizerReply(call.id, adapter=card)
                tokenizer_calls.answer(client, call.reply, reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join(10)
    redis_client.delete(keys.ADAPTERS)


def _post(url: str, what: str, **asked: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{what}_lora_adapter", json=asked, timeout=30)


def test_an_adapter_is_a_model_from_its_loading_on(fleet: Fleet) -> None:
    first, second = fleet.api(), fleet.api()
    worker = fleet.worker(most_adapters=2, adapters=(AdapterCard("own", "1" * 32, "/own"),))
    asked = {"model": "sql", "prompt": "x", "max_tokens": 2}
    assert httpx.post(f"{first.url}/v1/completions", json=asked).status_code == 404
    assert _post(first.url, "load", lora_name="sql", lora_path="sql").status_code == 200
    second.refresh()
    answer = httpx.post(f"{second.url}/v1/completions", json=asked)
    assert answer.status_code == 200
    assert answer.headers["x-penstock-model"] == "sql"
    assert answer.json()["model"] == "sql"
    assert (worker.jobs[-1].queue, worker.jobs[-1].adapter) == (QUEUE, SQL)
    assert httpx.post(f"{second.url}/v1/completions", json=asked | {"model": "own"}).is_success
    assert worker.jobs[-1].adapter == AdapterCard("own", "1" * 32, "/own")
    assert httpx.post(f"{second.url}/v1/completions", json=asked | {"model": "tiny"}).is_success
    assert worker.jobs[-1].adapter is None
    listed = httpx.get(f"{second.url}/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in listed] == [
        ("org/tiny", None), ("own", "tiny"), ("sql", "tiny"), ("tiny", None)
    ]  # fmt: skip

    taken = _post(second.url, "load", lora_name="own", lora_path="sql")
    assert taken.status_code == 200  # of the same base: what Redis has is an operator's wish
    assert _post(second.url, "unload", lora_name="own").status_code == 200
    assert _post(first.url, "unload", lora_name="sql").status_code == 200
    assert httpx.post(f"{first.url}/v1/completions", json=asked).status_code == 404


def test_what_is_no_name_or_path(fleet: Fleet) -> None:
    api = fleet.api()
    fleet.worker(most_adapters=2)
    for name, path in (
        ("", "sql"), ("a" * (LONGEST_NAME + 1), "sql"), ("ä", "sql"), ("a/b/c", "sql"),
        ("a", ""), ("a", "x" * (LONGEST_PATH + 1)), ("a", "nowhere"), ("tiny", "sql"),
        ("org/tiny", "sql"), (QUEUE, "sql"),
    ):  # fmt: skip
        refused = _post(api.url, "load", lora_name=name, lora_path=path)
        assert refused.status_code == 400, (name, path)
        assert refused.json()["error"]["param"] in {"lora_name", "lora_path"}
    assert _post(api.url, "load", lora_name="a" * LONGEST_NAME, lora_path="sql").status_code == 200


def test_a_worker_that_does_not_load_an_adapter_in_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "LOADING_S", 0.2)
    api = fleet.api()
    fleet.worker(name="silent", queue="silent-cpu", aliases=(), most_adapters=1)
    late = _post(api.url, "load", lora_name="sql", lora_path="sql")
    assert (late.status_code, late.json()["error"]["code"]) == (503, "no_worker")


def test_only_those_who_operate_the_fleet_load_adapters(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    made = KeyDesk(redis_client, 5.0)
    try:
        (_, plain), (_, admin) = made.make("ann"), made.make("root", admin=True)
        api = fleet.api()
        fleet.worker(most_adapters=2)
        asked = {"lora_name": "sql", "lora_path": "sql"}
        for route in ("load_lora_adapter", "unload_lora_adapter"):
            for key, status in ((plain, 403), (admin, 200), ("sk-wrong", 401)):
                header = {"authorization": f"Bearer {key}"}
                answer = httpx.post(f"{api.url}/v1/{route}", json=asked, headers=header)
                assert answer.status_code == status, (route, status)
    finally:
        redis_client.delete(keys.API_KEYS)


def test_models_without_adapters_and_a_full_store_are_refused(
    fleet: Fleet, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = fleet.api()
    worker = fleet.worker()
    refused = _post(api.url, "load", lora_name="sql", lora_path="sql")
    assert "No model here takes adapters" in refused.json()["error"]["message"]
    worker.stop()
    fleet.worker(most_adapters=1)
    monkeypatch.setattr(adapters, "MOST_ADAPTERS", 1)
    assert _post(api.url, "load", lora_name="one", lora_path="sql").status_code == 200
    assert _post(api.url, "load", lora_name="one", lora_path="sql").status_code == 200
    full = _post(api.url, "load", lora_name="two", lora_path="sql")
    assert "the most: unload one" in full.json()["error"]["message"]
    # What another program wrote there stops nothing.
    redis_client.hset(keys.ADAPTERS, "three", b"{")
    api.refresh()
    assert httpx.get(f"{api.url}/v1/models").json()["data"][0]["id"] == "one"
