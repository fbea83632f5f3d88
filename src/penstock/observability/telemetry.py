"""Metrics of an API process, with vLLM's names for the same things.

Counters and histograms belong to this process: sum them over the API processes. Gauges of the
fleet are read from Redis when scraped, so every API process shows the same values: take the
maximum. Workers' totals start again with each worker.

| metric | labels | unit |
|---|---|---|
| `penstock_time_to_first_token_seconds` | model, device | s, from the complete request to its first token |
| `penstock_inter_token_latency_seconds` | model, device | s a token, as received by this process |
| `penstock_e2e_request_latency_seconds` | model, device | s |
| `penstock_prompt_tokens_total`, `penstock_generation_tokens_total` | model, device | tokens |
| `penstock_request_success_total` | model, device, finished_reason | choices |
| `penstock_request_errors_total` | code | requests |
| `penstock_http_requests_total` | method, path, status | requests |
| `penstock_jobs_put_back_total` | place (line, lease, entry) | jobs whose keys had been deleted, by this process |
| `penstock_api_generations` | model, device | requests that wait for tokens in this process |
| `penstock_num_requests_running`, `penstock_num_requests_waiting` | model, device | jobs |
| `penstock_queue_waiting_tokens` | model, device | tokens |
| `penstock_queue_oldest_seconds` | model, device | s |
| `penstock_workers` | model, device | processes |
| `penstock_kv_cache_usage_ratio` | model, device, worker | 0 to 1 |
| `penstock_spec_decode_num_drafts`, `_draft_tokens`, `_accepted_tokens` | model, device, worker | since the worker's start |
| `penstock_spec_decode_kind_draft_tokens`, `_kind_accepted_tokens` | model, device, worker, kind (prompt, answers, model, mtp, eagle3) | since the worker's start |
| `penstock_worker_slots`, `_running`, `_step_seconds`, `_decode_tokens_per_second`, ... | model, device, worker | |
| `penstock_redis_up` | | 0 or 1 |
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

import penstock
from penstock.observability.fleet_metrics import FleetCollector
from penstock.transport.fleet.history import History

if TYPE_CHECKING:
    from penstock.contract.events import Finished, Tokens
    from penstock.observability.fleet_metrics import FleetView
    from penstock.transport.jobs.reconciling import Reconciled

TTFT_BUCKETS_S: Final = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
ITL_BUCKETS_S: Final = (
    0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
)  # fmt: skip
E2E_BUCKETS_S: Final = (
    0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
)  # fmt: skip

LABELS: Final = ("model", "device")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """One process's metrics, in their own registry. Owned by the event loop's thread."""

    def __init__(self) -> None:
        self.history = History()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge(
            "penstock_build_info", "Version of this process", ("version",), registry=registry
        ).labels(penstock.__version__).set(1)
        self.ttft = Histogram(
            "penstock_time_to_first_token_seconds", "Time to the first token", LABELS,
            buckets=TTFT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.itl = Histogram(
            "penstock_inter_token_latency_seconds", "Time between tokens", LABELS,
            buckets=ITL_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.e2e = Histogram(
            "penstock_e2e_request_latency_seconds", "Time of whole requests", LABELS,
            buckets=E2E_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "penstock_prompt_tokens", "Prompt tokens", LABELS, registry=registry
        )
        self.generation_tokens = Counter(
            "penstock_generation_tokens", "Generated tokens", LABELS, registry=registry
        )
        self.success = Counter(
            "penstock_request_success", "Answers that ended well",
            (*LABELS, "finished_reason"), registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "penstock_request_errors", "Requests that ended in an error", ("code",),
            registry=registry,
        )  # fmt: skip
        self.http_requests = Counter(
            "penstock_http_requests", "HTTP requests", ("method", "path", "status"),
            registry=registry,
        )  # fmt: skip
        self.jobs_put_back = Counter(
            "penstock_jobs_put_back", "Jobs that had lost their place with a deleted key",
            ("place",), registry=registry,
        )  # fmt: skip
        self.generations = Gauge(
            "penstock_api_generations", "Requests of this process that wait for tokens", LABELS,
            registry=registry,
        )  # fmt: skip

    def put_back(self, reconciled: Reconciled) -> None:
        """Count what one look at a queue has put back."""
        for place, count in (
            ("line", reconciled.waiting),
            ("lease", reconciled.running),
            ("entry", reconciled.entries),
        ):
            self.jobs_put_back.labels(place).inc(count)

    def meter(self, model: str, device: str) -> Meter:
        """Return the meter of one generation."""
        return Meter(self, model, device)

    def render(self, view: FleetView) -> bytes:
        """Return Prometheus's text format, with the fleet as in `view`.

        Callable from any thread.
        """
        return generate_latest(self.registry) + generate_latest(FleetCollector(view))


class Meter:
    """Measures one generation, of one or more sequences."""

    def __init__(self, telemetry: Telemetry, model: str, device: str) -> None:
        self.ttft_s: float | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._labels = (model, device)
        self._queue = f"{model}-{device}"
        self._history = telemetry.history
        self._telemetry = telemetry
        self._itl = telemetry.itl.labels(model, device)
        self._generations = telemetry.generations.labels(model, device)
        self._started_s = time.perf_counter()
        self._last_s: dict[int, float] = {}

    def start(self) -> None:
        """Start measuring: the request is parsed and about to be submitted."""
        self._generations.inc()

    def tokens(self, position: int, event: Tokens) -> None:
        """Count the tokens of one event of the sequence number `position`."""
        now_s = time.perf_counter()
        last_s = self._last_s.get(position)
        self._last_s[position] = now_s
        count = len(event.token_ids)
        self.completion_tokens += count
        self._history.add("tokens", self._queue, count)
        if last_s is not None and count:
            latency_s = (now_s - last_s) / count
            self._itl.observe(latency_s)
            self._history.observe("itl", self._queue, latency_s, count)
        elif self.ttft_s is None:
            self.ttft_s = now_s - self._started_s
            self._history.observe("ttft", self._queue, self.ttft_s)
            self._telemetry.ttft.labels(*self._labels).observe(self.ttft_s)

    def finished(self, event: Finished) -> None:
        """Count a sequence that ended normally."""
        self.prompt_tokens += event.usage.prompt_tokens
        self._history.add("prompt_tokens", self._queue, event.usage.prompt_tokens)
        self._history.add("answers", self._queue)
        self._telemetry.success.labels(*self._labels, event.reason.value).inc()

    def stop(self) -> None:
        """Stop measuring, whether or not the generation succeeded."""
        self._generations.dec()
        telemetry, labels = self._telemetry, self._labels
        telemetry.generation_tokens.labels(*labels).inc(self.completion_tokens)
        telemetry.prompt_tokens.labels(*labels).inc(self.prompt_tokens)
        telemetry.e2e.labels(*labels).observe(time.perf_counter() - self._started_s)
