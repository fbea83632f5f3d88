"""A Redis in protected mode: one clear line, at once, in place of retries and a traceback."""

from __future__ import annotations

import logging
import shutil
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest
from pydantic import RedisDsn

from penstock.cli.fleet.readiness import Startup
from penstock.cli.fleet.supervisor import Supervisor
from penstock.errors import StartupError, StoreUnavailable
from penstock.settings import Settings
from penstock.transport.store.connection import (
    PROTECTED,
    connect,
    connect_async,
    patiently,
    patiently_async,
)
from tests.fixtures.redis import find_free_port, find_server_binary
from workers.serving.startup import _await_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPLY = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password "
    b"is set for the default user. In this mode connections are only accepted from the loopback "
    b"interface. If you want to connect from external computers to Redis you may adopt one of the "
    b"following solutions: 1) Just disable protected mode sending the command 'CONFIG SET "
    b"protected-mode no' ...\r\n"
)


class Protected(socketserver.StreamRequestHandler):
    """Answers as Redis does whose client is not on its own machine."""

    def handle(self) -> None:
        self.rfile.read1()
        self.wfile.write(REPLY)


@pytest.fixture
def settings() -> Iterator[Settings]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Protected) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        yield Settings(redis_url=RedisDsn(url), redis_patience_s=20)
        server.shutdown()
        thread.join()


async def test_clients_give_up_at_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    started_s = time.monotonic()
    with connect(settings) as client, pytest.raises(StoreUnavailable) as refused:
        patiently(client.ping, 20)
    async with connect_async(settings) as other:
        with pytest.raises(StoreUnavailable) as refused_too:
            await patiently_async(other.ping, 20)
    for error in (refused.value, refused_too.value):
        assert error.message == PROTECTED
        assert error.is_refused
    assert time.monotonic() - started_s < 10
    assert all("CONFIG SET" not in record.getMessage() for record in caplog.records)


def test_a_worker_ends_with_one_line(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with connect(settings) as client, pytest.raises(StartupError) as end:
        _await_redis(client, settings)
    assert end.value.message.endswith(PROTECTED)
    assert "trying for" not in caplog.text


def test_up_ends_with_one_line(settings: Settings) -> None:
    startup = Startup.make(Supervisor(lambda line: None))
    started_s = time.monotonic()
    with pytest.raises(StartupError, match="protected mode"):
        startup.await_redis(settings)
    assert time.monotonic() - started_s < 10


def test_a_real_server_in_a_network_of_its_own(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "false", "--net", "ip", "link", "set", "lo", "up"]
    if shutil.which("ip") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    script = textwrap.dedent(f"""
        set -e
        ip link set lo up
        ip address add 10.99.0.1/32 dev lo
        {find_server_binary()} --port {(port := find_free_port())} --bind '*' --dir {tmp_path} --save '' >redis.log &
        server=$!
        trap 'kill $server' EXIT
        export PENSTOCK_REDIS_URL=redis://10.99.0.1:{port}/0
        for second in 1 2 3 4 5 6 7 8 9 10; do
            {sys.executable} -m penstock.cli status --once 2>out || true
            grep -q protected out && break
            sleep 0.5
        done
        cat out
    """)
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1:] == [f"error: {PROTECTED}"], done.stdout + done.stderr
