"""The way of one request, from HTTP to its last token, as docs/architecture.md numbers it.

A real API process, a real Celery worker and a real small model; the spans of both processes show
the order: HTTP, queue wait, claim, prefill, decode, last byte.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fixtures.jobs import wait_until
from tests.fixtures.processes import answers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

QUEUE = "tiny-llama-cpu"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARTS = ["queue wait", "claim", "prefill", "decode"]


def spans(file: Path) -> dict[str, dict[str, Any]]:
    return {span["name"]: span for span in map(json.loads, file.read_text().splitlines())}


def test_one_request_from_http_to_its_last_token(
    processes: Processes, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "spans.jsonl"
    env = {"PENSTOCK_TRACES": str(file), "PENSTOCK_LOG_FORMAT": "json"}
    api = processes.start_api(redis_url, env=env)
    worker = processes.start_worker(QUEUE, redis_url, models_dir, env=env)
    wait_until(lambda: answers(f"{api.url}/ready"), 30.0)
    answer = httpx.post(
        f"{api.url}/v1/chat/completions",
        json={
            "model": "tiny-llama",
            "max_tokens": 8,
            "seed": 5,
            "stop": ["never said"],
            "messages": [{"role": "user", "content": "x"}],
        },
        headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "mine-1"},
        timeout=60,
    )
    assert answer.status_code == 200
    http_name, job_name = "POST /v1/chat/completions", "chat tiny-llama"
    wait_until(lambda: {http_name, job_name, *PARTS} <= set(spans(file)))
    seen = spans(file)
    assert {span["context"]["trace_id"] for span in seen.values()} == {f"0x{TRACE}"}
    http, job = seen[http_name], seen[job_name]
    assert http["parent_id"] == f"0x{CALLER}"
    assert http["kind"] == "SpanKind.SERVER"
    assert http["attributes"]["http.response.status_code"] == 200
    assert http["attributes"]["http.route"] == "/v1/chat/completions"
    assert http["resource"]["attributes"]["service.name"] == "penstock-api"
    assert job["parent_id"] == http["context"]["span_id"]
    assert job["resource"]["attributes"]["service.name"] == "penstock-worker"
    said = job["attributes"]
    usage = answer.json()["usage"]
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == "tiny-llama"
    assert said["gen_ai.request.max_tokens"] == 8
    assert said["gen_ai.request.seed"] == 5
    assert said["gen_ai.request.stop_sequences"] == ["never said"]
    assert said["gen_ai.response.model"] == "tiny-llama"
    assert said["gen_ai.output.type"] == "text"
    assert "gen_ai.request.top_k" not in said  # not asked for
    assert said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert said["gen_ai.response.finish_reasons"] == [answer.json()["choices"][0]["finish_reason"]]
    assert said["gen_ai.response.id"] in answer.json()["id"]
    for before, after in itertools.pairwise(PARTS):
        assert seen[before]["parent_id"] == job["context"]["span_id"]
        assert seen[before]["end_time"] <= seen[after]["start_time"]
    assert seen["decode"]["end_time"] == job["end_time"]
    assert http["start_time"] <= seen["queue wait"]["end_time"]
    assert http["end_time"] >= job["end_time"]  # the last byte
    wait_until(lambda: "penstock.access" in api.output())  # written after the last byte
    check_logs(api.output(), worker.output(), answer)
    assert worker.stop() == 0


def check_logs(of_api: str, of_worker: str, answer: httpx.Response) -> None:
    """Every line is JSON, the server's and Celery's too, and the request can be followed."""
    api_lines = [json.loads(line) for line in of_api.splitlines()]
    worker_lines = [json.loads(line) for line in of_worker.splitlines()]
    assert answer.headers["x-request-id"] == "mine-1"
    (access,) = [one for one in api_lines if one["logger"] == "penstock.access"]
    (claimed,) = [one for one in worker_lines if one["message"].startswith("Job ")]
    assert access["request_id"] == claimed["request_id"] == "mine-1"
    assert access["jobs"] == claimed["job_id"] == answer.headers["x-penstock-jobs"]
    assert access["queue"] == claimed["queue"] == QUEUE
    assert access["status"] == 200
    assert access["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert claimed["worker"] in {one["worker"] for one in worker_lines if "ready" in one["message"]}
