"""What docs/security.md promises of keys, limits, logs and pages, over a real API."""

from __future__ import annotations

import hmac
import logging
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import api.admin
import api.anthropic
import api.ollama
import api.openai
import api.web
from api.access import keys as access_keys
from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.fixtures.api import Fleet

ASK: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 2}
REQUESTS = 12
PROMPT = "what-nobody-else-may-read"


@pytest.fixture
def desk(redis_client: redis.Redis) -> Iterator[KeyDesk]:
    yield KeyDesk(redis_client, 5.0)
    redis_client.delete(keys.API_KEYS)


def test_requests_at_once_do_not_pass_a_limit(fleet: Fleet, desk: KeyDesk) -> None:
    servers = [fleet.api(), fleet.api()]
    fleet.worker()
    _, secret = desk.make("ann", requests_per_min=REQUESTS)
    headers = {"authorization": f"Bearer {secret}"}
    statuses: list[int] = []
    begin = threading.Barrier(3 * REQUESTS)

    def ask(place: int) -> None:
        begin.wait()
        url = f"{servers[place % 2].url}/v1/completions"
        statuses.append(httpx.post(url, json=ASK, headers=headers, timeout=30.0).status_code)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3 * REQUESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A bucket goes on filling: one more for each twelfth of a minute that this took.
    assert REQUESTS <= statuses.count(200) <= REQUESTS + 6
    assert statuses.count(200) + statuses.count(429) == 3 * REQUESTS


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    genuine = hmac.compare_digest

    def count(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    assert access_keys.is_among("b", ("b", "a" * 100, "c"))
    assert not access_keys.is_among("", ("b", "a", "c"))
    assert compared == [(32, 32)] * 6  # all of them, and digests of one length


def test_logs_hold_no_key_and_no_prompt(
    fleet: Fleet, desk: KeyDesk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "penstock")
    server = fleet.api()
    fleet.worker()
    _, secret = desk.make("ann", requests_per_min=3)
    for key in (secret, "sk-wrong-key", secret, secret, secret):
        body = {**ASK, "prompt": PROMPT}
        headers = {"authorization": f"Bearer {key}"}
        httpx.post(f"{server.url}/v1/completions", json=body, headers=headers)
        httpx.post(f"{server.url}/v1/completions?api_key={key}", json={"prompt": PROMPT})
        httpx.post(f"{server.url}/v1/completions", content=PROMPT, headers=headers)
        httpx.post(f"{server.url}/v1/messages", json={"x": PROMPT}, headers={"x-api-key": key})
    assert "completions" in caplog.text
    for hidden in (secret, "sk-wrong-key", PROMPT):
        assert hidden not in caplog.text


def test_every_page_has_a_policy_and_a_type(fleet: Fleet) -> None:
    server = fleet.api()
    routers = (api.admin.router, api.anthropic.router, api.ollama.router, api.openai.router)
    declared = [one for router in (*routers, api.web.router) for one in router.endpoints]
    paths = {one.path for one in declared if "{" not in one.path}
    assert {"/", "/docs", "/health", "/admin/fleet"} <= paths
    pages: set[str] = set()
    with httpx.Client(base_url=server.url, timeout=20.0) as http:
        for path in sorted({*paths, "/nowhere", "/assets/nothing"}):
            answer = http.get(path)
            if answer.headers.get("content-type", "").startswith("text/html"):
                pages.add(path)
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
    assert pages == {"/", "/docs"}
