"""Redis's URL in each of its forms, and none of its password in what anybody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
import redis
from kombu import Connection

from penstock.errors import BadSettings
from penstock.settings import Settings, load
from penstock.transport.store import sentinel
from penstock.transport.store.connection import connect, connect_async
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer
from tests.fixtures.submitting import Submitter
from workers.delivery import broker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.processes import Processes

QUEUE = "tiny-llama-cpu"
PASSWORD = "s3/cr#t@?%"
ENCODED = "s3%2Fcr%23t%40%3F%25"


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """A server that is reached by a socket, and asks for a password."""
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path, options=("--unixsocket", str(path)))
    server.start()
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", PASSWORD)
    yield path
    server.kill()


def read(url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", url)
    load.cache_clear()
    try:
        return load()
    finally:
        load.cache_clear()


@pytest.mark.parametrize(
    "url",
    [
        "unix://{path}?db=1&password={password}",
        "unix://:{password}@{path}?db=1",
        "redis+socket://:{password}@{path}?virtual_host=1",
    ],
)
async def test_a_socket_serves_every_client(
    socket: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read(url.format(path=socket, password=ENCODED), monkeypatch)
    assert sentinel.address(settings) == f"unix://{socket}"
    with connect(settings) as client:
        client.set("a", "1", ex=60)
        assert client.connection_pool.connection_kwargs["db"] == 1
    async with connect_async(settings) as async_client:
        assert await async_client.get("a") == b"1"
    broker.install()
    celery_url, _ = sentinel.broker(settings)
    with Connection(celery_url) as connection:
        channel = connection.default_channel
        channel.client.ping()
        assert channel.client.get("a") == b"1", "the same database"
        assert PASSWORD not in connection.as_uri()
        assert ENCODED not in connection.as_uri()


async def test_a_worker_and_an_api_by_a_socket(
    processes: Processes, tmp_path: Path, models_dir: Path
) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path / "store", options=("--unixsocket", str(path)))
    server.start()
    try:
        env = {"PENSTOCK_REDIS_URL": f"unix://{path}?db=0"}
        worker = processes.start_worker(QUEUE, server.url, models_dir, env=env)
        api = processes.start_api(server.url, env=env)
        ask = {"model": "tiny-llama", "prompt": "Once", "max_tokens": 4}
        wait_until(lambda: httpx.get(f"{api.url}/v1/models/tiny-llama").status_code == 200)
        async with httpx.AsyncClient(timeout=30.0) as http:
            answer = await http.post(f"{api.url}/v1/completions", json=ask)
        assert answer.status_code == 200, answer.text
        async with connect_async(Settings.model_validate({"redis_url": env_of(path)})) as client:
            submitter = Submitter(client, Settings.model_validate({"redis_url": env_of(path)}))
            assert (await submitter.ask(QUEUE)).text
        assert worker.stop() == 0
        assert "Traceback" not in worker.output()
    finally:
        server.kill()


def env_of(path: Path) -> str:
    return f"unix://{path}?db=0"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@127.0.0.1:6379/0",
        "redis://:s3#cr@127.0.0.1:6379/0",
        "redis://user:s3/cr@127.0.0.1:6379/0",
        "redis://user:12/s3cr@127.0.0.1:6379/0",
        "redis://:s3?cr@127.0.0.1:6379/0",
        "redis://:s3cr:6379/0",
        "rediss://:s3cr@host:port/0",
        "s3cr@127.0.0.1:6379",
        "http://:s3cr@127.0.0.1:6379",
        "redis://:s3cr@[::1/0",
        "unix://:s3cr@host/path",
        "unix://:s3cr@",
        "unix://:s3cr@/run/redis.sock?db=s3cr",
        "redis+socket://:s3cr@/run/redis#sock",
    ],
)
def test_a_url_that_cannot_be_read_is_a_line_without_a_part_of_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSettings, match="PENSTOCK_REDIS_URL: ") as caught:
        read(url, monkeypatch)
    text = str(caught.value)
    assert "s3" not in text
    assert "cr@" not in text
    assert "\n" not in text
    assert caught.value.__cause__ is None, "pydantic's error shows the value"


@pytest.mark.parametrize(
    ("url", "password"),
    [
        (f"redis://:{ENCODED}@127.0.0.1:1/0", PASSWORD),
        ("redis://:pa@ss@127.0.0.1:1/0", "pa@ss"),
        ("redis://user:pa:ss@127.0.0.1:1/0", "pa:ss"),
    ],
)
def test_a_password_of_any_characters_is_what_each_client_sends(
    url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read(url, monkeypatch)
    with connect(settings) as client:
        assert client.connection_pool.connection_kwargs["password"] == password
    celery_url, _ = sentinel.broker(settings)
    assert Connection(celery_url).password == password
    assert password not in sentinel.address(settings)
