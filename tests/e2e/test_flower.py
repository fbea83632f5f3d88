"""Flower, as docs/operations.md starts it, beside the real worker: what it shows, what it may do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import answers
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

pytest.importorskip("flower", reason="flower is not installed")

QUEUE = "tiny-llama-cpu"
CHAT = {
    "model": "tiny-llama",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "who looks on?"}],
}


def start_flower(processes: Processes, redis_url: str, folder: Path) -> httpx.Client:
    port = find_free_port()
    flower = processes.start(
        "flower",
        [
            *(sys.executable, "-m", "celery", f"--broker={redis_url}", "flower"),
            *("--address=127.0.0.1", f"--port={port}"),
        ],
        {"FLOWER_UNAUTHENTICATED_API": "true"},
        cwd=folder,
    )
    url = f"http://127.0.0.1:{port}"
    flower.wait_until(lambda: answers(f"{url}/healthcheck"))
    return httpx.Client(base_url=url, timeout=20.0)


def test_it_shows_the_worker_its_pool_and_its_bells(
    processes: Processes, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    api = processes.start_api(redis_url)
    worker = processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "3"))
    with start_flower(processes, redis_url, tmp_path) as flower:
        seen = wait_until(lambda: flower.get("/api/workers", params={"refresh": "1"}).json())
        (name,) = seen
        pool = seen[name]["stats"]["pool"]
        assert pool["implementation"] == "workers.delivery.pool:EnginePool"
        assert pool["max-concurrency"] == 3
        assert pool["taken"] == {QUEUE: 0}
        assert [queue["name"] for queue in seen[name]["active_queues"]] == [QUEUE]
        assert flower.get("/api/queues/length").json() == {
            "active_queues": [{"name": QUEUE, "messages": 0}]
        }
        # Flower asks for events a few seconds after its start; what was before, it never hears of.
        wait_until(lambda: "Events of group {task} enabled" in worker.output(), 30.0)
        answer = httpx.post(f"{api.url}/v1/chat/completions", json=CHAT, timeout=60.0)
        assert answer.status_code == 200
        (bell,) = wait_until(
            lambda: [
                task
                for task in flower.get("/api/tasks").json().values()
                if task["state"] == "SUCCESS"
            ]
        )
        assert bell["name"] == "penstock.doorbell"
        assert bell["result"] == "ENDED"
        assert 0 < bell["runtime"] < 60  # while its job had the slot
        for page in ("/workers", "/tasks", "/broker", "/metrics"):
            assert flower.get(page).status_code == 200

        refused = flower.post(f"/api/worker/pool/grow/{name}", params={"n": 2})
        assert refused.status_code == 403
        assert "fixed at the start" in refused.text
        assert flower.post(f"/api/worker/shutdown/{name}").status_code == 200
        assert worker.wait() == 0  # drained, as after SIGTERM
