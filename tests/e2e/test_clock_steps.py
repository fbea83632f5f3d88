"""Somebody sets the clocks of the machines that the API and a worker run on."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.keys import API_KEYS
from penstock.transport.store.connection import connect
from tests.fixtures.clocks import HOUR_S, WallClock
from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import cards

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.settings import Settings
    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
BODY: Any = {"model": "tiny-llama", "prompt": "Water flows", "temperature": 0, "max_tokens": 300}
DEADLINE_S = 3.0
SEEN_S = 1.2
"""After so long a process goes by the new clock."""


class Stream(threading.Thread):
    """A streamed completion, its pieces with the time of their arrival."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self.pieces: list[tuple[float, str]] = []
        self.created: list[int] = []
        self.error = ""
        self.keepalives = 0
        self._url = f"{url}/v1/completions"
        self._headers = {"authorization": f"Bearer {key}"}
        self._begun_s = time.monotonic()
        self.start()

    def run(self) -> None:
        body = {**BODY, "max_tokens": 400, "ignore_eos": True, "stream": True}
        try:
            self._read(body)
        except httpx.TransportError as error:  # the test has failed meanwhile, and ends the API
            self.error = repr(error)
        self.lasted_s = time.monotonic() - self._begun_s

    def _read(self, body: dict[str, Any]) -> None:
        with httpx.stream(
            "POST", self._url, json=body, headers=self._headers, timeout=60.0
        ) as answer:
            for line in answer.iter_lines():
                # An empty line ends each event; those beyond are keep-alives.
                self.keepalives += (line == "") - line.startswith("data:")
                if line.startswith("data: {"):
                    self._take(json.loads(line[6:]))

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.error = chunk["error"]["code"]
            return
        self.created.append(chunk["created"])
        self.pieces.extend((time.monotonic(), choice["text"]) for choice in chunk["choices"])

    def text(self) -> str:
        self.join(90.0)
        assert not self.is_alive()
        return "".join(text for _, text in self.pieces)

    def longest_pause_s(self) -> float:
        times = [at_s for at_s, _ in self.pieces]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(300)  # three processes start, and it waits for clocks
def test_steps_of_an_hour_change_nothing(
    processes: Processes,
    redis_settings: Settings,
    redis_url: str,
    models_dir: Path,
    wall_clock: WallClock,
) -> None:
    # A lease, and five heartbeats in the registry, outlast what a busy machine lets a worker starve,
    # and are nothing beside an hour.
    env = {
        **wall_clock.env,
        "PENSTOCK_KEEPALIVE_S": "0.5",
        "PENSTOCK_HEARTBEAT_S": "1",
        "PENSTOCK_LEASE_MS": "10000",
    }
    worker = processes.start_worker(QUEUE, redis_url, models_dir, env=env, wait=False)
    api = processes.start_api(redis_url, env=env, wait=False)
    hasty = processes.start_api(
        redis_url, env={**env, "PENSTOCK_DEADLINE_S": str(DEADLINE_S)}, wait=False
    )
    worker.wait_until(lambda: cards(redis_url))
    for one in (api, hasty):
        one.wait_until(lambda url=one.url: answers(f"{url}/health"))
    with connect(redis_settings) as client:
        desk = KeyDesk(client, 5.0)
        ends_s = int(desk.now_s()) + 600
        _, key = desk.make("short-lived", expires_s=ends_s)
        headers = {"authorization": f"Bearer {key}"}

        def ask(**fields: Any) -> httpx.Response:
            return httpx.post(
                f"{api.url}/v1/completions", json={**BODY, **fields}, headers=headers, timeout=60.0
            )

        wait_until(lambda: "tiny-llama" in httpx.get(f"{api.url}/v1/models", headers=headers).text)
        undisturbed = Stream(api.url, key)
        disturbed = undisturbed.text()

        stream = Stream(api.url, key)
        wait_until(lambda: len(stream.pieces) > 5, 30.0)
        for hours in (1, -1):
            wall_clock.step(hours * HOUR_S)
            seen_s = time.monotonic() + SEEN_S
            while time.monotonic() < seen_s:  # the worker stays in the registry all the while
                assert cards(redis_url)
                time.sleep(0.05)
            # An answer is dated by the fleet's clock.
            answer = ask(max_tokens=1)
            assert answer.status_code == 200
            assert answer.json()["created"] == pytest.approx(time.time(), abs=5)
            assert "tiny-llama" in httpx.get(f"{api.url}/v1/models", headers=headers).text
        assert stream.text() == disturbed
        assert stream.longest_pause_s() < 20.0
        assert "attempt 2" not in worker.output(), "it kept what it held"
        assert stream.created[0] == pytest.approx(time.time(), abs=60)

        # A bucket of one a minute is empty after one, and fills by Redis's clock.
        _, key = desk.make("frugal", requests_per_min=1)
        headers["authorization"] = f"Bearer {key}"
        assert ask(max_tokens=1).status_code == 200
        wall_clock.step(0)
        time.sleep(SEEN_S)
        refused = ask(max_tokens=1)
        assert refused.status_code == 429
        assert 0 < float(refused.headers["retry-after"]) <= 60

        # A deadline is as long as it was meant to be.
        _, other = desk.make("another")
        worker.kill()
        waiting = Stream(hasty.url, other)
        wall_clock.step(HOUR_S)
        waiting.join(30.0)
        client.delete(API_KEYS)
    assert "deadline_exceeded" in waiting.error
    assert DEADLINE_S - 0.5 < waiting.lasted_s < DEADLINE_S + 4.0
    assert waiting.keepalives >= 2
