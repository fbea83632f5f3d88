"""Metrics of an API process, and the log's format. Names are vLLM's where they mean the same.

Counters and histograms are this process's own: sum them over the API processes. Gauges of the
fleet are read from Redis when they are scraped, so every API process shows the same: take the
maximum. Worker's totals start again with each worker.

| metric | labels | unit |
|---|---|---|
| `penstock_time_to_first_token_seconds` | model, device | s, from the whole request read to its first token |
| `penstock_inter_token_latency_seconds` | model, device | s a token, as this process got them |
| `penstock_e2e_request_latency_seconds` | model, device | s |
| `penstock_prompt_tokens_total`, `penstock_generation_tokens_total` | model, device | tokens |
| `penstock_request_success_total` | model, device, finished_reason | choices |
| `penstock_request_errors_total` | code | requests |
| `penstock_http_requests_total` | method, path, status | requests |
| `penstock_api_generations` | model, device | requests that wait for tokens in this process |
| `penstock_num_requests_running`, `penstock_num_requests_waiting` | model, device | jobs |
| `penstock_queue_waiting_tokens` | model, device | tokens |
| `penstock_queue_oldest_seconds` | model, device | s |
| `penstock_workers` | model, device | processes |
| `penstock_kv_cache_usage_ratio` | model, device, worker | 0 to 1 |
| `penstock_spec_decode_num_drafts`, `_draft_tokens`, `_accepted_tokens` | model, device, worker | since the worker's start |
| `penstock_worker_slots`, `_running`, `_step_seconds`, `_decode_tokens_per_second`, ... | model, device, worker | |
| `penstock_redis_up` | | 0 or 1 |
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
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
from penstock.history import History

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.contract.events import Finished, Tokens
    from penstock.contract.worker import ModelCard, WorkerCard, WorkerLoad
    from penstock.transport.records import QueueDepth

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
WORKER_LABELS: Final = (*LABELS, "worker")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class FleetView:
    """What a scrape shows of the fleet. A queue without a depth could not be read."""

    redis_up: bool
    cards: Sequence[ModelCard] = ()
    workers: Sequence[WorkerCard] = ()
    depths: Mapping[str, QueueDepth] = field(default_factory=dict[str, "QueueDepth"])


class Telemetry:
    """One process's metrics, in a registry of their own. Owned by the event loop's thread."""

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
        self.generations = Gauge(
            "penstock_api_generations", "Requests of this process that wait for tokens", LABELS,
            registry=registry,
        )  # fmt: skip
        self._fleet = _FleetGauges(registry)

    def meter(self, model: str, device: str) -> Meter:
        """Return the meter of one generation."""
        return Meter(self, model, device)

    def render(self, view: FleetView) -> bytes:
        """Return Prometheus's text format, with the fleet as it is in `view`."""
        self._fleet.show(view)
        return generate_latest(self.registry)


class Meter:
    """Measures one generation, of one or several sequences."""

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
        """Begin: the request is understood and about to be submitted."""
        self._generations.inc()

    def tokens(self, position: int, event: Tokens) -> None:
        """Count the tokens of one event of sequence number `position`."""
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
        """Count a sequence that ended well."""
        self.prompt_tokens += event.usage.prompt_tokens
        self._history.add("prompt_tokens", self._queue, event.usage.prompt_tokens)
        self._history.add("answers", self._queue)
        self._telemetry.success.labels(*self._labels, event.reason.value).inc()

    def stop(self) -> None:
        """End, well or not."""
        self._generations.dec()
        telemetry, labels = self._telemetry, self._labels
        telemetry.generation_tokens.labels(*labels).inc(self.completion_tokens)
        telemetry.prompt_tokens.labels(*labels).inc(self.prompt_tokens)
        telemetry.e2e.labels(*labels).observe(time.perf_counter() - self._started_s)


class _FleetGauges:
    """Gauges that are set anew at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._labelled: list[Gauge] = []
        self._redis_up = Gauge(
            "penstock_redis_up", "Whether Redis answers this process", registry=registry
        )
        queue = self._of_queue
        self._running = queue("penstock_num_requests_running", "Jobs that a worker holds")
        self._waiting = queue("penstock_num_requests_waiting", "Jobs that wait in the queue")
        self._waiting_tokens = queue("penstock_queue_waiting_tokens", "Weight of the waiting jobs")
        self._oldest_s = queue("penstock_queue_oldest_seconds", "Age of the oldest waiting job")
        self._workers = queue("penstock_workers", "Live workers")
        worker = self._of_worker
        self._kv_use = worker("penstock_kv_cache_usage_ratio", "Share of the KV cache in use")
        self._slots = worker("penstock_worker_slots", "Sequences a worker decodes at once")
        self._worker_running = worker("penstock_worker_running", "Sequences in the batch")
        self._worker_waiting = worker("penstock_worker_waiting", "Sequences taken, not in it yet")
        self._step_s = worker("penstock_worker_step_seconds", "Median duration of a step")
        self._decode = worker("penstock_worker_decode_tokens_per_second", "Decode rate")
        self._prefill = worker("penstock_worker_prefill_tokens_per_second", "Prefill rate")
        self._generated = worker("penstock_worker_generated_tokens", "Tokens since its start")
        self._preempted = worker("penstock_worker_preempted", "Preemptions since its start")
        spec = "penstock_spec_decode_num_"
        self._drafts = worker(f"{spec}drafts", "Guessed continuations since its start")
        self._drafted = worker(f"{spec}draft_tokens", "Guessed tokens since its start")
        self._accepted = worker(f"{spec}accepted_tokens", "Guessed tokens that were right")

    def _of_queue(self, name: str, documentation: str) -> Gauge:
        return self._add(name, documentation, LABELS)

    def _of_worker(self, name: str, documentation: str) -> Gauge:
        return self._add(name, documentation, WORKER_LABELS)

    def _add(self, name: str, documentation: str, labels: tuple[str, ...]) -> Gauge:
        gauge = Gauge(name, documentation, labels, registry=self._registry)
        self._labelled.append(gauge)
        return gauge

    def show(self, view: FleetView) -> None:
        for gauge in self._labelled:
            gauge.clear()  # what has gone must not stay at its last value
        self._redis_up.set(view.redis_up)
        for card in view.cards:
            labels = (card.name, card.device)
            self._workers.labels(*labels).set(0)
            depth = view.depths.get(card.queue)
            if depth is not None:
                self._running.labels(*labels).set(depth.running)
                self._waiting.labels(*labels).set(depth.waiting_jobs)
                self._waiting_tokens.labels(*labels).set(depth.waiting_tokens)
                self._oldest_s.labels(*labels).set(depth.oldest_age_s)
        for worker in view.workers:
            for card in worker.models:
                self._workers.labels(card.name, card.device).inc()
                load = worker.loads.get(card.queue)
                if load is not None:
                    self._show_load((card.name, card.device, worker.id), card, load)

    def _show_load(self, labels: tuple[str, str, str], card: ModelCard, load: WorkerLoad) -> None:
        self._slots.labels(*labels).set(card.slots)
        self._kv_use.labels(*labels).set(load.kv_use)
        self._worker_running.labels(*labels).set(load.running)
        self._worker_waiting.labels(*labels).set(load.waiting)
        self._step_s.labels(*labels).set(load.step_ms / 1000)
        self._decode.labels(*labels).set(load.decode_tokens_per_s)
        self._prefill.labels(*labels).set(load.prefill_tokens_per_s)
        self._generated.labels(*labels).set(load.generated_tokens_total)
        self._preempted.labels(*labels).set(load.preempted_total)
        self._drafts.labels(*labels).set(load.drafts_total)
        self._drafted.labels(*labels).set(load.drafted_tokens_total)
        self._accepted.labels(*labels).set(load.accepted_tokens_total)


def configure_logging(level: int = logging.INFO) -> None:
    """Send Penstock's log to stderr, unless the process has arranged its logging already."""
    logger = logging.getLogger("penstock")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
