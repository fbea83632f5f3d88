"""The example of nginx in front of the API: tokens come through as they are made."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.page import ANSWER, Gate
from tests.fixtures.processes import wait_until
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.api import ApiServer, Fleet

CONF = Path(__file__).parents[3] / "deploy" / "nginx" / "penstock.conf"
BODY = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


def listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def stream_is_not_held_up(fleet: Fleet, server: ApiServer, proxy: str) -> None:
    """Read what a worker has made of an answer, while it makes no more."""
    gate = Gate()
    gate.allowed = 2
    fleet.worker(gate)
    server.refresh()
    with httpx.stream("POST", f"{proxy}/v1/chat/completions", json=BODY, timeout=30.0) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        seen = ""
        for text in answer.iter_text():
            seen += text
            if seen.count('"content":"') >= gate.allowed:
                break  # both pieces are here while the third has not been made
        gate.allowed = len(gate.pieces)
    assert len(seen) < len(ANSWER) * 10


def upload_is_bounded(proxy: str) -> None:
    """Upload a file that is larger than other bodies may be, and send such a body."""
    content = b"x" * 20 * 1024 * 1024
    form = {"file": ("big.bin", content)}
    made = httpx.post(f"{proxy}/v1/files", files=form, data={"purpose": "user_data"}, timeout=60.0)
    assert made.status_code == 200, made.text
    assert made.json()["bytes"] == len(content)
    back = httpx.get(f"{proxy}/v1/files/{made.json()['id']}/content", timeout=60.0)
    assert back.content == content
    refused = httpx.post(f"{proxy}/v1/chat/completions", content=content[: 9 * 1024 * 1024])
    assert refused.status_code == 413
    assert refused.json()["error"]["message"]


def away_is_json(proxy: str) -> None:
    """Ask while no API process listens."""
    answer = httpx.get(f"{proxy}/v1/models", timeout=10.0)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["type"] == "proxy_error"


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> ApiServer:
    return fleet.api(files_dir=tmp_path / "files")


@pytest.fixture
def proxy(server: ApiServer, tmp_path: Path) -> Iterator[str]:
    """Run nginx with the example's site before the API; yield its URL."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    port = find_free_port()
    site = CONF.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("server 127.0.0.1:8000", f"server {server.url.removeprefix('http://')}")
    (tmp_path / "site.conf").write_text(site)
    places = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\n"  # else it may not write here
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log {tmp_path}/access.log; {places} include {tmp_path}/site.conf; }}\n"
    )
    command = [nginx, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: listens(url))
            yield url
        finally:
            running.terminate()


def test_a_stream_is_not_held_up(fleet: Fleet, server: ApiServer, proxy: str) -> None:
    stream_is_not_held_up(fleet, server, proxy)


def test_uploads_and_their_limits(proxy: str) -> None:
    upload_is_bounded(proxy)


def test_an_api_that_is_away_is_json(server: ApiServer, proxy: str) -> None:
    server.stop()
    away_is_json(proxy)


def test_metrics_are_for_this_host(proxy: str) -> None:
    assert "penstock_redis_up 1" in httpx.get(f"{proxy}/metrics").text


def test_no_log_has_a_workers_token(server: ApiServer, proxy: str, tmp_path: Path) -> None:
    body = {"worker_name": "http://127.0.0.1:1", "check_heart_beat": True, "worker_status": None}
    assert httpx.post(f"{proxy}/r/s3cret/register_worker", json=body).status_code == 403
    too_large = b"x" * 9 * 1024 * 1024
    httpx.post(f"{proxy}/r/s3cret/register_worker", content=too_large)
    httpx.get(f"{proxy}/health")
    server.stop()
    assert httpx.post(f"{proxy}/r/s3cret/register_worker", json=body).status_code == 502
    wait_until(lambda: "/health" in (tmp_path / "access.log").read_text())
    for log in ("access.log", "error.log"):
        assert "s3cret" not in (tmp_path / log).read_text()
