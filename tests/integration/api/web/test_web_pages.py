"""How the page's files are served, and jobs by the key of their request."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.web.pages import TYPES
from tests.fixtures.api import drone
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from tests.fixtures.api import ApiServer, Fleet

STATIC = Path(__file__).parents[4] / "api" / "web" / "static"
FILES = sorted(str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file())
CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api(api_keys=("secret",))


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_needs_no_key_and_nothing_from_elsewhere(server: ApiServer, path: str) -> None:
    page = httpx.get(server.url + path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "//" not in re.sub(r"http://www\.w3\.org", "", page.text)
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", page.text)
    for part in re.findall(r'(?:href|src)="(/[^"]+)"', page.text):
        assert httpx.get(server.url + part).status_code == 200, part


def test_the_apis_description_is_read_from_here(server: ApiServer) -> None:
    """What `docs.js` asks Swagger UI to show; FastAPI's own pages would load foreign scripts."""
    script = (STATIC / "docs.js").read_text()
    assert re.findall(r'"(/[^"]+)"', script) == ["/openapi.json"]
    assert "//" not in re.sub(r"^//.*", "", script, flags=re.MULTILINE)
    assert "validatorUrl: null" in script
    assert "/v1/chat/completions" in httpx.get(server.url + "/openapi.json").json()["paths"]
    assert "SwaggerUIBundle" in httpx.get(server.url + "/assets/vendor/swagger-ui.js").text
    assert httpx.get(server.url + "/redoc").status_code == 404


def test_every_file_has_its_type_and_is_sent_once(server: ApiServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        for name in FILES:
            first = client.get(f"/assets/{name}")
            assert first.content == (STATIC / name).read_bytes()
            assert first.headers["content-encoding"] == "gzip"
            kind = TYPES.get(name.rsplit(".", 1)[-1], "text/plain; charset=utf-8")
            assert first.headers["content-type"] == kind
            assert first.headers["x-content-type-options"] == "nosniff"
            again = client.get(f"/assets/{name}", headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            plain = client.get(f"/assets/{name}", headers={"accept-encoding": "identity"})
            assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("path", ["../pages.py", "%2e%2e/pages.py", "nothing.js", "vendor", ""])
def test_there_is_no_other_file(server: ApiServer, path: str) -> None:
    assert httpx.get(f"{server.url}/assets/{path}").status_code == 404


def test_modules_import_what_is_there() -> None:
    for path in STATIC.rglob("*.js"):
        for wanted in re.findall(r"""(?:from|import\()\s?["'](\.[^"']+)["']""", path.read_text()):
            assert (path.parent / wanted).is_file(), f"{path.name} imports {wanted}"


def test_every_library_comes_with_its_licence_and_version() -> None:
    vendored = STATIC / "vendor"
    versions = (vendored / "VERSIONS").read_text()
    for path in (*vendored.glob("*.js"), *vendored.glob("*.css")):
        assert path.name in versions
    packages = [line.split("/")[0].split()[0].removeprefix("@") for line in versions.splitlines()]
    assert sorted(packages) == sorted(
        path.name.removeprefix("LICENSE.") for path in vendored.glob("LICENSE.*")
    )


def test_a_request_is_found_and_cancelled_by_its_key(fleet: Fleet, server: ApiServer) -> None:
    worker = fleet.worker(drone)
    own = {"authorization": "Bearer secret"}
    url = f"{server.url}/v1/requests/one"
    assert httpx.get(url, headers=own).status_code == 404
    assert httpx.get(url).status_code == 401
    with ThreadPoolExecutor(1) as aside:
        answer = aside.submit(
            httpx.post, f"{server.url}/v1/chat/completions", json=CHAT, timeout=30,
            headers={**own, "idempotency-key": "one"},
        )  # fmt: skip
        wait_until(lambda: worker.running)
        found = httpx.get(url, headers=own).json()
        assert found["job"] in worker.running
        assert found["status"] == "running"
        assert httpx.delete(url, headers=own).json()["status"] == "requested"
        assert answer.result().json()["error"]["code"] == "cancelled"
