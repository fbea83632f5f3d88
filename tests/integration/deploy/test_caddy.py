"""The example of Caddy in front of the API: streams, uploads, limits."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fixtures.processes import wait_until
from tests.fixtures.redis import find_free_port
from tests.integration.deploy.test_nginx import (
    away_is_json,
    listens,
    stream_is_not_held_up,
    upload_is_bounded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.api import ApiServer, Fleet

CADDYFILE = Path(__file__).parents[3] / "deploy" / "caddy" / "Caddyfile"


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> ApiServer:
    return fleet.api(files_dir=tmp_path / "files")


@pytest.fixture
def proxy(server: ApiServer, tmp_path: Path) -> Iterator[str]:
    """Run Caddy with the example, and an access log, before the API; yield its URL."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed")
    port = find_free_port()
    env = {
        **os.environ,
        "PROXY_SITE": f":{port}",
        "PROXY_UPSTREAM": server.url.removeprefix("http://"),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    site = tmp_path / "Caddyfile"
    text = CADDYFILE.read_text()
    site.write_text(text.replace("{$PROXY_SITE::80} {", "{$PROXY_SITE::80} {\n\tlog"))
    command = [caddy, "run", "--config", str(site), "--adapter", "caddyfile"]
    with (
        (tmp_path / "log.txt").open("w") as log,
        subprocess.Popen(command, env=env, stderr=log) as running,
    ):
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


def test_metrics_are_for_this_network(proxy: str) -> None:
    assert "penstock_redis_up 1" in httpx.get(f"{proxy}/metrics").text


def test_an_api_that_is_away_is_json(server: ApiServer, proxy: str) -> None:
    server.stop()
    away_is_json(proxy)


def test_no_log_has_a_secret(proxy: str, tmp_path: Path) -> None:
    headers = {"x-api-key": "s3cret", "authorization": "Bearer s3cret"}
    httpx.post(f"{proxy}/r/s3cret/register_worker", json={}, headers=headers)
    httpx.get(f"{proxy}/health?api_key=s3cret&shown=1")
    log = tmp_path / "log.txt"
    wait_until(lambda: "shown=1" in log.read_text())
    assert "register_worker" in log.read_text()
    assert "s3cret" not in log.read_text()
