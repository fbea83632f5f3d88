"""Background responses while Redis takes no writes for nearly as long as we are patient."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
from pydantic import RedisDsn

from penstock.transport.jobs import missing
from penstock.transport.store.connection import connect
from tests.fixtures.api import Fleet
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from penstock.settings import Settings

PAUSE_S = 12.0
"""Longer than a look for a lost job once waited, shorter than our patience of 20 s."""
ASK = {"model": "tiny", "input": "hello", "background": True}


def test_a_pause_of_redis_fails_no_background_response(
    tmp_path: Path, redis_settings: Settings
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    settings = redis_settings.model_copy(
        update={"redis_url": RedisDsn(server.url), "redis_patience_s": 20.0}
    )
    with ExitStack() as stack:
        stack.callback(server.kill)
        client = stack.enter_context(connect(settings))
        fleet = Fleet(settings, stack)
        api, other = fleet.api(), fleet.api()
        fleet.worker()
        clients = stack.enter_context(ThreadPoolExecutor(8))
        url = f"{api.url}/v1/responses"
        before = [httpx.post(url, json=ASK, timeout=30.0).json()["id"] for _ in range(4)]
        client.execute_command("CLIENT", "PAUSE", int(PAUSE_S * 1000), "WRITE")
        paused_s = time.monotonic()
        asked = [clients.submit(httpx.post, url, json=ASK, timeout=60.0) for _ in range(6)]
        while time.monotonic() - paused_s < PAUSE_S - 0.5:
            for one in before:
                # Either process may be asked, and both sweep.
                found = httpx.get(f"{other.url}/v1/responses/{one}", timeout=30.0)
                assert found.json().get("status") != "failed", found.text
            looked_s = time.monotonic()
            wait_until(lambda since_s=looked_s: time.monotonic() - since_s > 0.5, poll_s=0.05)
        answers = [one.result(60.0) for one in asked]
        assert [answer.status_code for answer in answers] == [200] * 6, answers
        for one in (*before, *(answer.json()["id"] for answer in answers)):
            assert status_when_over(other.url, one) == "completed"


def status_when_over(url: str, response_id: str) -> str:
    def status() -> str:
        found = httpx.get(f"{url}/v1/responses/{response_id}", timeout=30.0).json()["status"]
        return found if found not in {"queued", "in_progress"} else ""

    return wait_until(status, 30.0, poll_s=0.1)


def test_a_job_that_is_missing_for_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(missing.time, "monotonic", lambda: now_s)
    jobs = missing.MissingJobs(20.0)
    assert not jobs.is_lost("a")
    now_s += 29.0
    assert not jobs.is_lost("a")
    jobs.is_there("a")
    now_s += 5.0
    assert not jobs.is_lost("a")
    now_s += 31.0
    assert jobs.is_lost("a")
