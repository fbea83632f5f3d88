"""Pages in browsers: foreign ones get nothing without a key, ours and listed ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.fixtures.api import Fleet

ASK: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 2}
BROWSER = {"user-agent": "Mozilla/5.0"}
FOREIGN = {**BROWSER, "origin": "https://evil.example"}
PATHS = ("/v1/completions", "/admin/workers/nobody/drain", "/api/generate", "/worker_generate")


def status(url: str, headers: dict[str, str], path: str = "/v1/completions") -> int:
    # As a form without permission would send it: plain text, no preflight.
    headers = {"content-type": "text/plain", **headers}
    return httpx.post(f"{url}{path}", json=ASK, headers=headers, timeout=20.0).status_code


def test_a_foreign_page_cannot_send_requests(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    for path in PATHS:
        answer = httpx.post(f"{server.url}{path}", json=ASK, headers=FOREIGN)
        assert answer.status_code == (200 if path == "/worker_generate" else 403), path
        assert "Pages of other sites need an API key" in answer.text
    for headers in ({**FOREIGN, "sec-fetch-site": "cross-site"}, {**BROWSER, "origin": "null"}):
        assert status(server.url, headers) == 403
    assert httpx.get(f"{server.url}/admin/fleet", headers=FOREIGN).status_code == 403
    assert not worker.jobs
    # Our own page, a proxy that changes the host, and programs.
    assert status(server.url, {**BROWSER, "origin": server.url}) == 200
    proxied = {**BROWSER, "origin": "https://penstock.example", "sec-fetch-site": "same-origin"}
    assert status(server.url, proxied) == 200
    assert status(server.url, {}) == 200


def test_fastchats_open_routes_are_not_open_to_pages(fleet: Fleet) -> None:
    server = fleet.api(api_keys=("sesame",), fastchat_open=True)
    fleet.worker()
    asked = {"url": f"{server.url}/worker_generate", "json": {**ASK, "max_new_tokens": 2}}
    assert "Pages of other sites" in httpx.post(**asked, headers=FOREIGN).text
    assert httpx.post(**asked).json()["error_code"] == 0


def test_listed_pages_and_keys(fleet: Fleet) -> None:
    server = fleet.api(cors_origins=("https://a.example",))
    fleet.worker()
    assert status(server.url, {**BROWSER, "origin": "https://a.example"}) == 200
    assert status(server.url, {**BROWSER, "origin": "https://b.example"}) == 403
    # A header that asks for a key makes browsers ask for permission first.
    assert status(server.url, {**FOREIGN, "authorization": "Bearer none"}) == 200


HOSTS = {
    "127.0.0.1:8000": 200, "[::1]:8000": 200, "localhost": 200, "api:8000": 200,
    "fleet.svc.cluster.local": 200, "gpu.internal": 200, "evil.example": 403,
    "evil.example:8000": 403, "127.0.0.1.evil.example": 403, "a.b:c": 403,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_that_was_bound_to_us(fleet: Fleet, host: str) -> None:
    server = fleet.api()
    fleet.worker()
    same_origin = {**BROWSER, "host": host, "origin": f"http://{host}"}
    assert status(server.url, same_origin) == HOSTS[host]
    # Programs do not rebind names; a fleet's own name need not be listed for them.
    assert status(server.url, {"host": host}) == 200


def test_own_names(fleet: Fleet) -> None:
    listed = fleet.api(allowed_hosts=("penstock.example",))
    keyed = fleet.api(api_keys=("sesame",))
    fleet.worker()
    host = {**BROWSER, "host": "penstock.example"}
    assert status(listed.url, host) == 200
    assert status(listed.url, {**BROWSER, "host": "other.example"}) == 403
    assert status(keyed.url, {**host, "authorization": "Bearer sesame"}) == 200
    assert status(keyed.url, host) == 401
