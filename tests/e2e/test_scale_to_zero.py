"""A model without workers: its job waits, shows where an autoscaler looks, and wakes one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.fixtures.processes import Processes

QUEUE = "tiny-llama-cpu"
MODEL = {"model": "tiny-llama", "device": "cpu"}
CHAT = {
    "model": "tiny-llama",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "anybody there?"}],
}


def gauge(url: str, name: str) -> float | None:
    text = httpx.get(f"{url}/metrics", timeout=10.0).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == MODEL:
                return sample.value
    return None


def test_a_waiting_job_wakes_a_worker_and_the_model_may_sleep_again(
    processes: Processes, redis_url: str, redis_client: redis.Redis, models_dir: Path
):
    env = {"PENSTOCK_STANDBY_QUEUES": QUEUE, "PENSTOCK_WORKER_GRACE_S": "0"}
    api = processes.start_api(redis_url, env=env)
    assert httpx.get(f"{api.url}/ready").status_code == 200
    assert [one["id"] for one in httpx.get(f"{api.url}/v1/models").json()["data"]] == ["tiny-llama"]
    assert gauge(api.url, "penstock_num_requests_waiting") == 0
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=api.url, timeout=90.0) as http:
        asked = pool.submit(http.post, "/v1/chat/completions", json=CHAT)
        # What KEDA's two triggers read: the list of doorbells, and Prometheus.
        wait_until(lambda: redis_client.llen(QUEUE) == 1)
        assert gauge(api.url, "penstock_num_requests_waiting") == 1
        assert gauge(api.url, "penstock_num_requests_running") == 0
        assert gauge(api.url, "penstock_workers") == 0
        worker = processes.start_worker(QUEUE, redis_url, models_dir)
        answer = asked.result(60.0)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 5
        assert redis_client.llen(QUEUE) == 0
        wait_until(lambda: gauge(api.url, "penstock_workers") == 1)

        assert worker.stop() == 0
        wait_until(lambda: gauge(api.url, "penstock_workers") == 0)
        assert gauge(api.url, "penstock_num_requests_running") == 0
        # Asleep again: taken all the same, now by what the worker told of its model.
        detail = http.get("/v1/models/tiny-llama").json()
        assert detail["id"] == "tiny-llama"
        with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as stream:
            assert stream.status_code == 200
            wait_until(lambda: redis_client.llen(QUEUE) == 1)
        wait_until(lambda: redis_client.llen(QUEUE) == 0)  # the client has gone, and its job


def test_a_queue_that_does_not_stand_by_is_refused(processes: Processes, redis_url: str):
    api = processes.start_api(redis_url, env={"PENSTOCK_STANDBY_QUEUES": "other-cpu"})
    answer = httpx.post(f"{api.url}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
