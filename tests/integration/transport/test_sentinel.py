"""Redis behind a Sentinel: its master dies, a replica takes over, nobody's answer suffers."""

from __future__ import annotations

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from pydantic import RedisDsn

from penstock.contract.events import Finished
from penstock.errors import BadSettings
from penstock.settings import Settings, load
from penstock.transport import keys
from penstock.transport.store.connection import connect, connect_async
from tests.fixtures.api import Fleet
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer, find_free_port, find_server_binary
from tests.fixtures.submitting import Submitter
from tests.integration.api.test_resumption import COUNT, WHOLE, count_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.api import ScriptedWorker
    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

MASTER = "penstock"
QUEUE = "tiny-llama-cpu"


class Watched:
    """A master, its replica, and a Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        for name in ("master", "replica", "sentinel"):
            (folder / name).mkdir()
        quick = ("--repl-diskless-sync-delay", "0")
        self.master = RedisServer(folder / "master", options=quick)
        self.replica = RedisServer(
            folder / "replica", options=("--replicaof", "127.0.0.1", str(self.master.port))
        )
        self.port = find_free_port()
        # Bound, but not listened on: nobody can be met there, not even another test's server.
        self._nobody = socket.socket()
        self._nobody.bind(("127.0.0.1", 0))
        self._folder = folder / "sentinel"
        self._sentinel: subprocess.Popen[bytes] | None = None

    @property
    def sentinels(self) -> tuple[str, str]:
        """One that is away, then the one that is there."""
        return (f"127.0.0.1:{self._nobody.getsockname()[1]}", f"127.0.0.1:{self.port}")

    @property
    def env(self) -> dict[str, str]:
        return {
            # Its host is nobody's: whoever goes there directly fails.
            "PENSTOCK_REDIS_URL": "redis://nowhere.invalid:1/0",
            "PENSTOCK_REDIS_SENTINELS": ",".join(self.sentinels),
            "PENSTOCK_REDIS_MASTER": MASTER,
        }

    def settings(self, **fields: Any) -> Settings:
        """Return settings that find the master, with one Sentinel of two away."""
        return Settings(
            redis_url=RedisDsn(self.env["PENSTOCK_REDIS_URL"]),
            redis_sentinels=self.sentinels,
            redis_master=MASTER,
            **fields,
        )

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        with redis.Redis(port=self.replica.port) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", 20.0)
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        self._sentinel = subprocess.Popen(
            [find_server_binary(), str(config), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # It learns of the replica from the master, every ten seconds or when it starts.
        wait_until(self._knows_the_replica, 30.0)

    def _knows_the_replica(self) -> bool:
        try:
            with redis.Redis(port=self.port, protocol=2) as client:
                state: Any = client.sentinel_master(MASTER)
                return state["num-slaves"] == 1
        except redis.RedisError:
            return False

    def stop(self) -> None:
        if self._sentinel is not None:
            self._sentinel.kill()
            self._sentinel.wait()
        self.replica.kill()
        self.master.kill()
        self._nobody.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    servers = Watched(tmp_path)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def test_a_failover_under_a_running_stream_loses_nothing(watched: Watched) -> None:
    settings = watched.settings(lease_ms=1000, redis_patience_s=20.0)
    with ExitStack() as stack:
        fleet = Fleet(settings, stack)
        server = fleet.api()
        worker = fleet.worker(count_up)
        worker.step_s = 0.03
        text = ""
        events = 0
        with httpx.stream(
            "POST",
            f"{server.url}/v1/completions",
            json={"model": "tiny", "prompt": "hello", "stream": True},
            timeout=60.0,
        ) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    events += 1
                    text += json.loads(line[6:])["choices"][0]["text"]
                    if events == 5:
                        watched.master.kill()
        assert text == WHOLE
        assert events == COUNT + 1
        with connect(settings) as client:
            assert client.info("server")["tcp_port"] == watched.replica.port
        after = httpx.post(
            f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "hello"}, timeout=60.0
        )
        assert after.json()["choices"][0]["text"].startswith("0 1 2 ")
        _answers_though_a_line_is_deleted(server.url, worker, settings)


def _answers_though_a_line_is_deleted(url: str, worker: ScriptedWorker, settings: Settings) -> None:
    """At the new master, too, a waiting job that has lost its place is put back."""
    worker.accepting = False
    arrivals = keys.arrivals(worker.card.queue)
    ask = {"model": "tiny", "prompt": "hello"}
    with ThreadPoolExecutor(1) as clients, connect(settings) as client:
        answer = clients.submit(httpx.post, f"{url}/v1/completions", json=ask, timeout=30.0)
        wait_until(lambda: client.zcard(arrivals))
        lines = f"{keys.queue_prefix(worker.card.queue)}waiting:*"
        client.delete(arrivals, *client.scan_iter(lines))
        worker.accepting = True
        assert answer.result(30.0).json()["choices"][0]["text"].startswith("0 1 2 ")


async def test_celerys_worker_follows_the_master(
    watched: Watched, processes: Processes, models_dir: Path
) -> None:
    url = watched.master.url
    worker = processes.start_worker(QUEUE, url, models_dir, env=watched.env, wait=False)
    settings = watched.settings(lease_ms=1000, redis_patience_s=30.0)
    async with connect_async(settings) as client:
        submitter = Submitter(client, settings)
        undisturbed = await submitter.ask(QUEUE, max_tokens=300)
        job_id = await submitter.submit(QUEUE, max_tokens=300)
        await submitter.until_tokens(QUEUE, job_id, 20)
        watched.master.kill()
        answer = await submitter.answer(QUEUE, job_id)
        assert isinstance(answer.end, Finished)
        assert answer.text == undisturbed.text
        # A new job needs a doorbell, so Celery's own connections are at the new master.
        assert (await submitter.ask(QUEUE, max_tokens=300)).text == undisturbed.text
    assert worker.stop() == 0
    assert "Unrecoverable error" not in worker.output()


@pytest.mark.parametrize("sentinels", ["nowhere", "a:b", "redis:99999", ":26379"])
def test_sentinels_that_are_none(monkeypatch: pytest.MonkeyPatch, sentinels: str) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_SENTINELS", sentinels)
    with pytest.raises(BadSettings, match="PENSTOCK_REDIS_SENTINELS"):
        load.__wrapped__()


def test_redis_by_tls_and_sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "rediss://redis:6379/0")
    monkeypatch.setenv("PENSTOCK_REDIS_SENTINELS", "redis:26379")
    with pytest.raises(BadSettings, match="TLS"):
        load.__wrapped__()
