"""Health, readiness, metrics, the log; and an API whose Redis is not there."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import RedisDsn

from tests.fixtures.api import Fleet, drone
from tests.fixtures.processes import wait_until
from tests.fixtures.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from penstock.settings import Settings

CHAT: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
MODEL = {"model": "tiny", "device": "cpu"}


def metric(text: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def test_health_and_readiness(fleet: Fleet) -> None:
    server = fleet.api()
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.head(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/ready").status_code == 503
    worker = fleet.worker()
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready", "models": ["tiny"]}
    worker.stop()
    server.refresh()
    assert httpx.get(f"{server.url}/ready").json()["reason"] == "no worker is live"
    assert httpx.get(f"{server.url}/version").json()["name"] == "penstock"


def test_metrics(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
    httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "temperature": 9})
    httpx.get(f"{server.url}/v1/no/such/path")
    worker.announce()
    server.refresh()
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    assert metric(text, "penstock_time_to_first_token_seconds_count", **MODEL) == 1
    assert metric(text, "penstock_inter_token_latency_seconds_count", **MODEL) == 3
    assert metric(text, "penstock_generation_tokens_total", **MODEL) == 4
    assert metric(text, "penstock_prompt_tokens_total", **MODEL) == 3
    done = {"finished_reason": "stop", **MODEL}
    assert metric(text, "penstock_request_success_total", **done) == 1
    assert metric(text, "penstock_request_errors_total", code="invalid_parameter") == 1
    ok = {"path": "/v1/chat/completions", "method": "POST"}
    assert metric(text, "penstock_http_requests_total", status="200", **ok) == 1
    assert metric(text, "penstock_http_requests_total", status="400", **ok) == 1
    assert metric(text, "penstock_http_requests_total", status="404", path="unknown") == 1
    assert "no/such" not in text
    assert metric(text, "penstock_redis_up") == 1
    assert metric(text, "penstock_workers", **MODEL) == 1
    assert metric(text, "penstock_kv_cache_usage_ratio", **MODEL) == 0.25
    assert metric(text, "penstock_num_requests_running", **MODEL) == 0
    assert metric(text, "penstock_spec_decode_num_drafts", **MODEL) == 3
    assert metric(text, "penstock_spec_decode_num_draft_tokens", **MODEL) == 9
    assert metric(text, "penstock_spec_decode_num_accepted_tokens", **MODEL) == 6
    by_head = {"kind": "mtp", **MODEL}
    assert metric(text, "penstock_spec_decode_kind_draft_tokens", **by_head) == 4
    assert metric(text, "penstock_spec_decode_kind_accepted_tokens", **by_head) == 3


def test_metrics_of_a_queue_without_workers(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    worker.accepting = False
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url) as http:
        asked = pool.submit(http.post, "/v1/completions", json={"model": "tiny", "prompt": "abcd"})
        wait_until(lambda: fleet.depth().waiting_jobs)
        worker.stop()
        server.refresh()
        text = httpx.get(f"{server.url}/metrics").text
        assert metric(text, "penstock_workers", **MODEL) == 0
        assert metric(text, "penstock_num_requests_waiting", **MODEL) == 1
        assert metric(text, "penstock_queue_waiting_tokens", **MODEL) == 17
        assert (metric(text, "penstock_queue_oldest_seconds", **MODEL) or 0) > 0
        assert metric(text, "penstock_api_generations", **MODEL) == 1
        assert metric(text, "penstock_kv_cache_usage_ratio", **MODEL) is None
        fleet.worker()
        assert asked.result(20.0).status_code == 200


def test_the_log_has_a_line_for_each_request(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    server = fleet.api()
    fleet.worker()
    with caplog.at_level(logging.INFO, "penstock.access"):
        httpx.post(
            f"{server.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-7"}
        )
        httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "model": "none"})
        httpx.get(f"{server.url}/health")
        httpx.get(
            f"{server.url}/v1/x%20y%0aforged=1",
            headers=[(b"x-request-id", "not printable é".encode())],
        )
        # The line comes after the answer.
        wait_until(lambda: len([r for r in caplog.records if r.name == "penstock.access"]) == 3)
    done, failed, strange = [r.getMessage() for r in caplog.records if r.name == "penstock.access"]
    for part in ("request_id=mine-7", "status=200", "model=tiny", "prompt_tokens=3",
                 "completion_tokens=4", "ttft_ms=", "path=/v1/chat/completions"):  # fmt: skip
        assert part in done
    assert "error=model_not_found" in failed
    assert "request_id=req-" in strange
    assert "\n" not in strange


def test_redis_comes_later(redis_settings: Settings, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    settings = redis_settings.model_copy(
        update={"redis_url": RedisDsn(redis.url), "redis_patience_s": 1.0}
    )
    with ExitStack() as stack:
        stack.callback(redis.kill)
        fleet = Fleet(settings, stack)
        started_s = time.monotonic()
        server = fleet.api()
        assert time.monotonic() - started_s < 10.0
        with httpx.Client(base_url=server.url, timeout=20.0) as http:
            assert http.get("/health").status_code == 200
            assert http.get("/ready").json()["reason"] == "Redis does not answer"
            assert metric(http.get("/metrics").text, "penstock_redis_up") == 0
            for method, path in (
                ("POST", "/v1/chat/completions"),
                ("GET", "/v1/models"),
                ("GET", "/v1/models/tiny"),
                ("GET", "/v1/jobs/x"),
            ):
                answer = http.request(method, path, json=CHAT if method == "POST" else None)
                assert answer.status_code == 503, path
                assert answer.json()["error"]["code"] == "store_unavailable"
                assert int(answer.headers["retry-after"]) >= 1
            redis.start()
            fleet.worker()
            wait_until(lambda: http.get("/ready").status_code == 200)
            answer = http.post("/v1/chat/completions", json=CHAT)
            assert answer.json()["choices"][0]["message"]["content"] == "once upon a time"
            redis.kill()
            answer = http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 503
            redis.start()
            wait_until(
                lambda: http.post("/v1/chat/completions", json=CHAT).status_code == 200, 30.0
            )
