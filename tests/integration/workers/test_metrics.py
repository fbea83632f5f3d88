"""What workers tell Prometheus at ports of their own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.contract.events import Failed, Tokens
from penstock.errors import StartupError
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import find_free_port
from tests.integration.workers.test_station import A, B, Desk, finished

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.settings import Settings
    from tests.fixtures.submitting import Submitter


@pytest.fixture
def desks(redis_client: redis.Redis, redis_settings: Settings) -> Iterator[list[Desk]]:
    """Two workers of one machine with the same settings."""
    settings = redis_settings.model_copy(update={"metrics_port": find_free_port()})
    with ExitStack() as stack:
        made: list[Desk] = []
        for _ in range(2):
            made.append(Desk(redis_client, settings))
            stack.callback(made[-1].drain)
        yield made
    redis_client.delete(A, B)


def metrics(desk: Desk) -> dict[str, float]:
    """Return what a worker says of queue A, by metric and its further labels."""
    assert desk.metrics_url
    text = httpx.get(desk.metrics_url, timeout=10.0).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("model", "a") == "a" and "le" not in sample.labels:
                more = sample.labels.get("finished_reason") or sample.labels.get("code") or ""
                found[sample.name.removeprefix("penstock_worker_") + more] = sample.value
    return found


async def test_each_worker_reports_its_own_attempts(desks: list[Desk], submitter: Submitter):
    one, other = desks
    assert one.metrics_url != other.metrics_url
    job_id = await submitter.submit(A)
    one.take(A)
    (request,) = wait_until(lambda: one.engine(A).submitted)
    one.emit(A, request, Tokens(request.job_id, 0, (5,), "five", prompt_tokens=1))
    one.emit(A, request, Tokens(request.job_id, 1, (6, 7), "more"))
    one.emit(A, request, finished(request.job_id, 3))
    assert (await submitter.answer(A, job_id)).text == "fivemore"
    found = metrics(one)
    for name in (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
    ):
        assert found[f"{name}_count"] == 1, name
        assert 0 <= found[f"{name}_sum"] < 60, name
    parts = [
        found[f"{name}_sum"]
        for name in (
            "request_queue_time_seconds",
            "request_prefill_time_seconds",
            "request_decode_time_seconds",
        )
    ]
    assert sum(parts) == pytest.approx(found["e2e_request_latency_seconds_sum"], abs=0.05)
    assert found["generation_tokens_total"] == 3
    assert found["prompt_tokens_total"] == 1
    assert found["request_success_totalstop"] == 1
    assert found["num_requests_running"] == 1
    assert "generation_tokens_total" not in metrics(other)


async def test_failures_and_lost_attempts_are_counted(desks: list[Desk], submitter: Submitter):
    desk = desks[0]
    failing, lost = await submitter.submit(A), await submitter.submit(A)
    desk.take(A)
    desk.take(A)
    requests = wait_until(lambda: len(desk.engine(A).submitted) == 2 and desk.engine(A).submitted)
    desk.emit(A, requests[0], Failed(requests[0].job_id, 0, "engine_failed", "no"))
    await submitter.queue.cancel(lost)
    wait_until(lambda: metrics(desk).get("requests_lost_total") == 1)
    found = metrics(desk)
    assert found["request_failures_totalengine_failed"] == 1
    end = (await submitter.answer(A, failing)).end
    assert isinstance(end, Failed)
    assert end.code == "engine_failed"


def test_an_address_that_cannot_be_had_ends_the_start(
    redis_client: redis.Redis, redis_settings: Settings
):
    update = {"metrics_port": 9_100, "metrics_host": "192.0.2.1"}
    with pytest.raises(StartupError, match="PENSTOCK_METRICS_PORT"):
        Desk(redis_client, redis_settings.model_copy(update=update))
