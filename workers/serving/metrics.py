"""A worker's own Prometheus metrics, at a port of its own. Metrics that vLLM has keep its names.

All begin with `penstock_worker_`, so that they never add up with what the API measures: an API
process sees requests as its clients do, a worker sees attempts at jobs. Labels: model, device.

| metric | unit |
|---|---|
| `time_to_first_token_seconds` | s, from a job's submission to its first token |
| `inter_token_latency_seconds` | s a token |
| `e2e_request_latency_seconds` | s, from a job's submission to its end |
| `request_queue_time_seconds` | s, from a job's submission to its claim |
| `request_prefill_time_seconds` | s, from the claim to the first token |
| `request_decode_time_seconds` | s, from the first token to the end |
| `prompt_tokens_total`, `generation_tokens_total` | tokens |
| `request_success_total` | attempts that ended well, by finished_reason |
| `request_failures_total` | attempts that ended in an error, by code |
| `requests_lost_total` | attempts given up: their jobs were cancelled, or went to another worker |
| `num_requests_running`, `num_requests_waiting` | sequences in the batch, and taken but not in it |
| `kv_cache_usage_perc` | 0 to 1, as vLLM's |
| `num_preemptions_total` | preemptions |
| `prefix_cache_queries_total`, `prefix_cache_hits_total` | prompt tokens of attempts that ended well, and those of them that were in the cache |
| `kv_store_loaded_tokens_total`, `kv_store_read_bytes_total`, `kv_store_read_seconds_total`, `kv_store_written_bytes_total`, `kv_store_dropped_blocks_total`, `kv_store_errors_total` | what the store of KV blocks has done |
| `kv_store_remote_tokens_total`, `kv_store_remote_bytes_total`, `kv_store_remote_seconds_total`, `kv_store_remote_errors_total` | what came from other hosts |
| `claims_total` | attempts begun, by `prefix`: who was known to hold the prompt's beginning (this, other, none) |

A job that a second worker takes up is measured there from its first submission on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import penstock
from penstock.clock import clock
from penstock.contract.events import Failed, Finished, Tokens
from penstock.contract.worker import StoreLoad
from penstock.errors import StartupError
from penstock.observability.telemetry import E2E_BUCKETS_S, ITL_BUCKETS_S, LABELS, TTFT_BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

    from penstock.contract.worker import WorkerLoad
    from penstock.engine.events import AttemptEvent
    from penstock.settings import Settings
    from workers.serving.claimed_jobs import ClaimedJob, ClaimedJobs
    from workers.serving.served_queue import ServedQueue

PREFIX: Final = "penstock_worker_"
PORTS: Final = 64
"""How many workers of one machine may share a first port: each takes the next free one."""


@dataclass(slots=True)
class _Attempt:
    labels: tuple[str, str]
    created_ns: int
    claimed_ns: int
    first_ns: int = 0
    last_ns: int = 0


class WorkerMetrics:
    """Counts from the events that are published. Called by several threads."""

    def __init__(self, claimed: ClaimedJobs, worker_id: str) -> None:
        self._claimed = claimed
        self._open: dict[str, _Attempt] = {}
        self._lock = threading.Lock()
        self._server: WSGIServer | None = None
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge(
            "penstock_build_info", "Version of this process", ("version", "worker"),
            registry=registry,
        ).labels(penstock.__version__, worker_id).set(1)  # fmt: skip
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "Submission to first token", TTFT_BUCKETS_S
        )
        self._itl = self._histogram(
            "inter_token_latency_seconds", "Time between tokens", ITL_BUCKETS_S
        )
        self._e2e = self._histogram(
            "e2e_request_latency_seconds", "Submission to end", E2E_BUCKETS_S
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "Submission to claim", E2E_BUCKETS_S
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "Claim to first token", TTFT_BUCKETS_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "First token to end", E2E_BUCKETS_S
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens")
        self._cache_hits = self._counter(
            "prefix_cache_hits", "Prompt tokens that were in the prefix cache"
        )
        self._cache_queries = self._counter(
            "prefix_cache_queries", "Prompt tokens that were looked for in the prefix cache"
        )
        self._claims = self._counter(
            "claims", "Attempts begun, by who held the beginning of their prompts", "prefix"
        )
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens")
        self._success = self._counter(
            "request_success", "Attempts that ended well", "finished_reason"
        )
        self._failures = self._counter(
            "request_failures", "Attempts that ended in an error", "code"
        )
        self._lost = self._counter("requests_lost", "Attempts that were given up")

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, LABELS, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(PREFIX + name, text, (*LABELS, *more), registry=self.registry)

    def show(self, served_queues: Mapping[str, ServedQueue]) -> None:
        """Export the engines' loads too."""
        self.registry.register(_Loads(served_queues))

    def serve(self, settings: Settings) -> str:
        """Serve at the first free port from `settings.metrics_port` on; return the URL.

        :raises StartupError: none of them is free.
        """
        host, first = settings.metrics_host, settings.metrics_port
        problem: OSError | None = None
        for port in range(first, min(first + PORTS, 2**16)):
            try:
                self._server, _ = start_http_server(port, host, self.registry)
            except OSError as error:
                problem = error
            else:
                return f"http://{host}:{port}/metrics"
        raise StartupError(f"PENSTOCK_METRICS_PORT: no port from {first} on: {problem}")

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def see(self, events: list[AttemptEvent]) -> None:
        """Note events and their time."""
        now_ns = clock.now_ns()
        with self._lock:
            for emitted in events:
                self._note(emitted, now_ns)

    def drop(self, claimed: ClaimedJob) -> None:
        """Count an attempt that was given up."""
        with self._lock:
            self._open.pop(claimed.attempt_id, None)
        self._lost.labels(claimed.served.card.name, claimed.served.card.device).inc()

    def _note(self, emitted: AttemptEvent, now_ns: int) -> None:
        event = emitted.event
        attempt = self._open.get(emitted.attempt_id)
        if attempt is None:
            claimed = self._claimed.get(emitted.attempt_id)
            if claimed is None:
                return
            card = claimed.served.card
            attempt = self._open[emitted.attempt_id] = _Attempt(
                (card.name, card.device),
                claimed.claim.job.created_ms * 1_000_000,
                claimed.claimed_ns,
            )
            self._claims.labels(*attempt.labels, claimed.claim.prefix.name.lower()).inc()
            waited_ns = attempt.claimed_ns - attempt.created_ns
            self._queue.labels(*attempt.labels).observe(max(waited_ns, 0) / 1e9)
        if isinstance(event, Tokens):
            self._tokens(attempt, len(event.token_ids), now_ns)
            return
        del self._open[emitted.attempt_id]
        self._end(attempt, event, now_ns)

    def _tokens(self, attempt: _Attempt, count: int, now_ns: int) -> None:
        labels = attempt.labels
        self._generation_tokens.labels(*labels).inc(count)
        if attempt.first_ns:
            self._itl.labels(*labels).observe((now_ns - attempt.last_ns) / 1e9 / max(count, 1))
        else:
            attempt.first_ns = now_ns
            self._ttft.labels(*labels).observe(max(now_ns - attempt.created_ns, 0) / 1e9)
            self._prefill.labels(*labels).observe(max(now_ns - attempt.claimed_ns, 0) / 1e9)
        attempt.last_ns = now_ns

    def _end(self, attempt: _Attempt, event: Finished | Failed, now_ns: int) -> None:
        labels = attempt.labels
        if isinstance(event, Failed):
            self._failures.labels(*labels, event.code).inc()
            return
        self._success.labels(*labels, event.reason.value).inc()
        self._prompt_tokens.labels(*labels).inc(event.usage.prompt_tokens)
        self._cache_queries.labels(*labels).inc(event.usage.prompt_tokens)
        self._cache_hits.labels(*labels).inc(event.usage.cached_tokens)
        self._e2e.labels(*labels).observe(max(now_ns - attempt.created_ns, 0) / 1e9)
        if attempt.first_ns:
            self._decode.labels(*labels).observe((now_ns - attempt.first_ns) / 1e9)


def _of_stores(loads: list[tuple[tuple[str, str], WorkerLoad]]) -> Iterable[Metric]:
    for field in StoreLoad.__struct_fields__:
        name = f"{PREFIX}kv_store_{field.removesuffix('_total')}"
        counter = CounterMetricFamily(name, "Store of KV blocks: " + field, labels=LABELS)
        for labels, load in loads:
            if load.store is not None:
                counter.add_metric(labels, getattr(load.store, field))
        yield counter


class _Loads(Collector):
    """The engines' loads at the time of the scrape."""

    def __init__(self, served_queues: Mapping[str, ServedQueue]) -> None:
        self._served_queues = served_queues

    def collect(self) -> Iterable[Metric]:
        loads = [
            ((served.card.name, served.card.device), served.engine.load())
            for served in self._served_queues.values()
        ]
        for name, text, field in (
            ("num_requests_running", "Sequences in the batch", "running"),
            ("num_requests_waiting", "Sequences taken, not in it yet", "waiting"),
            ("kv_cache_usage_perc", "Share of the KV cache in use", "kv_use"),
        ):
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=LABELS)
            for labels, load in loads:
                gauge.add_metric(labels, getattr(load, field))
            yield gauge
        yield from _of_stores(loads)
        preempted = CounterMetricFamily(f"{PREFIX}num_preemptions", "Preemptions", labels=LABELS)
        for labels, load in loads:
            preempted.add_metric(labels, load.preempted_total)
        yield preempted
