"""A model without workers: its job waits, shows where an autoscaler looks, and wakes one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import ROOT, answers
from tests.fixtures.redis import find_free_port

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

QUEUE = "tiny-llama-cpu"
MODEL = {"model": "tiny-llama", "device": "cpu"}
CHAT = {
    "model": "tiny-llama",
    "max_tokens": 5,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "anybody there?"}],
}


def gauge(url: str, name: str) -> float | None:
    text = httpx.get(f"{url}/metrics", timeout=10.0).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == MODEL:
                return sample.value
    return None


@pytest.mark.timeout(300)  # an API, then a worker, one after the other beside all other tests
def test_a_waiting_job_wakes_a_worker_and_the_model_may_sleep_again(
    processes: Processes, redis_url: str, redis_client: redis.Redis, models_dir: Path
):
    env = {
        "PENSTOCK_STANDBY_QUEUES": QUEUE,
        "PENSTOCK_WORKER_GRACE_S": "0",
        "PENSTOCK_KEEPALIVE_S": "0.5",  # a stream whose job waits begins with such a comment
    }
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
        # Whoever looks between a bell and the claim that it calls for rings another.
        wait_until(lambda: redis_client.llen(QUEUE) == 0)
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


class Keda:
    """Reads what KEDA would by our ScaledObject: its script for Redis, its query to Prometheus."""

    def __init__(self, redis_client: redis.Redis, prometheus_url: str) -> None:
        manifest = ROOT / "deploy" / "kubernetes" / "scaling.yaml"
        scaled: dict[str, Any] = next(iter(yaml.safe_load_all(manifest.read_text())))
        self.spec = scaled["spec"]
        first, second = (trigger["metadata"] for trigger in self.spec["triggers"])
        assert (first["listName"], self.spec["minReplicaCount"]) == ("bigdl-7b-cpu", 0)
        self._redis = redis_client
        self._list_length, self._threshold = int(first["listLength"]), float(second["threshold"])
        self._activation = float(second["activationThreshold"])
        self._query = second["query"].replace("bigdl-7b", "tiny-llama")
        self._prometheus = prometheus_url

    def waiting(self) -> int:
        assert self._redis.type(QUEUE) in {"list", "none", b"list", b"none"}
        return self._redis.llen(QUEUE)

    def load(self) -> float:
        asked = httpx.get(
            f"{self._prometheus}/api/v1/query", params={"query": self._query}, timeout=10.0
        ).json()
        assert asked["status"] == "success", asked
        result = asked["data"]["result"]
        assert len(result) <= 1  # KEDA takes one value, or none for 0 (ignoreNullValues)
        return float(result[0]["value"][1]) if result else 0.0

    def replicas(self) -> int:
        """What the two say: asleep when neither is active, else the larger of both averages."""
        waiting, load = self.waiting(), self.load()
        if waiting <= 0 and load <= self._activation:
            return self.spec["minReplicaCount"]
        wanted = max(-(-waiting // self._list_length), -(-load // self._threshold), 1)
        return min(int(wanted), self.spec["maxReplicaCount"])


def start_prometheus(processes: Processes, api_url: str, folder: Path) -> str:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus here: apt-get install prometheus")
    config = folder / "prometheus.yml"
    scrape = {
        "job_name": "penstock",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": [api_url.removeprefix("http://")]}],
    }
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    address = f"127.0.0.1:{find_free_port()}"
    prometheus = processes.start(
        "prometheus",
        [
            *(program, f"--config.file={config}", f"--web.listen-address={address}"),
            f"--storage.tsdb.path={folder / 'prometheus'}",
        ],
        {},
    )
    prometheus.wait_until(lambda: answers(f"http://{address}/-/ready"))
    return f"http://{address}"


@pytest.mark.timeout(300)
def test_keda_sees_the_queue_fill_run_and_empty(
    processes: Processes,
    redis_url: str,
    redis_client: redis.Redis,
    models_dir: Path,
    tmp_path: Path,
):
    env = {"PENSTOCK_STANDBY_QUEUES": QUEUE, "PENSTOCK_WORKER_GRACE_S": "0"}
    api = processes.start_api(redis_url, env=env)
    keda = Keda(redis_client, start_prometheus(processes, api.url, tmp_path))
    assert keda.replicas() == 0
    body = {**CHAT, "max_tokens": 100}
    with ThreadPoolExecutor(20) as pool, httpx.Client(base_url=api.url, timeout=90.0) as http:
        asked = [pool.submit(http.post, "/v1/chat/completions", json=body) for _ in range(20)]
        wait_until(lambda: keda.waiting() == 20)
        wait_until(lambda: keda.load() == 20.0)
        assert keda.replicas() == 3  # 20 bells, 8 a worker
        worker = processes.start_worker(QUEUE, redis_url, models_dir, options=("-c", "16"))
        wait_until(lambda: keda.waiting() < 20)
        assert keda.replicas() >= 1  # nothing need wait for it to stay
        assert [answer.result(90.0).status_code for answer in asked] == [200] * 20
        wait_until(lambda: keda.replicas() == 0)
        assert worker.stop() == 0
        assert keda.replicas() == 0


def test_a_queue_that_does_not_stand_by_is_refused(processes: Processes, redis_url: str):
    api = processes.start_api(redis_url, env={"PENSTOCK_STANDBY_QUEUES": "other-cpu"})
    answer = httpx.post(f"{api.url}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
