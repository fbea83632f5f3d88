"""Gauges of the fleet at the time of a scrape.

They are built for each scrape, so that what is gone does not remain at its last value. With
hundreds of workers that takes some tens of milliseconds: too long for an event loop.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from penstock.contract.worker import (
        DraftLoad,
        ModelCard,
        ModelState,
        WorkerCard,
        WorkerLoad,
    )
    from penstock.transport.jobs.records import QueueDepth

QUEUE_LABELS: Final = ("model", "device")
WORKER_LABELS: Final = (*QUEUE_LABELS, "worker")

_OF_QUEUES: Final[tuple[tuple[str, str, Callable[[QueueDepth], float]], ...]] = (
    ("num_requests_running", "Jobs that a worker has leased", lambda depth: depth.running),
    ("num_requests_waiting", "Jobs that wait in the queue", lambda depth: depth.waiting_jobs),
    ("queue_waiting_tokens", "Weight of the waiting jobs", lambda depth: depth.waiting_tokens),
    ("queue_oldest_seconds", "Age of the oldest waiting job", lambda depth: depth.oldest_age_s),
)
_OF_WORKERS: Final[tuple[tuple[str, str, Callable[[ModelCard, WorkerLoad], float]], ...]] = (
    ("worker_slots", "Sequences a worker decodes at once", lambda card, _: card.slots),
    ("kv_cache_usage_ratio", "Share of the KV cache in use", lambda _, load: load.kv_use),
    ("worker_running", "Sequences in the batch", lambda _, load: load.running),
    ("worker_waiting", "Sequences taken, not in it yet", lambda _, load: load.waiting),
    ("worker_step_seconds", "Median duration of a step", lambda _, load: load.step_ms / 1000),
    (
        "worker_decode_tokens_per_second",
        "Decode rate",
        lambda _, load: load.decode_tokens_per_s,
    ),
    (
        "worker_prefill_tokens_per_second",
        "Prefill rate",
        lambda _, load: load.prefill_tokens_per_s,
    ),
    (
        "worker_generated_tokens",
        "Tokens since its start",
        lambda _, load: load.generated_tokens_total,
    ),
    (
        "worker_prefilled_tokens",
        "Prompt tokens computed since its start",
        lambda _, load: load.prefilled_tokens_total,
    ),
    (
        "worker_cached_tokens",
        "Prompt tokens found in the prefix cache since its start",
        lambda _, load: load.cached_tokens_total,
    ),
    (
        "worker_loaded_tokens",
        "Prompt tokens loaded from the host's store since its start",
        lambda _, load: load.store.loaded_tokens_total if load.store else 0,
    ),
    (
        "worker_fetched_tokens",
        "Prompt tokens loaded from other hosts' stores since its start",
        lambda _, load: load.store.remote_tokens_total if load.store else 0,
    ),
    ("worker_preempted", "Preemptions since its start", lambda _, load: load.preempted_total),
    (
        "spec_decode_num_drafts",
        "Drafts since its start",
        lambda _, load: load.drafts_total,
    ),
    (
        "spec_decode_num_draft_tokens",
        "Draft tokens since its start",
        lambda _, load: load.drafted_tokens_total,
    ),
    (
        "spec_decode_num_accepted_tokens",
        "Draft tokens that were accepted",
        lambda _, load: load.accepted_tokens_total,
    ),
)
_OF_DRAFTS: Final[tuple[tuple[str, str, Callable[[DraftLoad], float]], ...]] = (
    (
        "spec_decode_kind_draft_tokens",
        "Draft tokens by where they came from",
        lambda drafts: drafts.drafted_tokens_total,
    ),
    (
        "spec_decode_kind_accepted_tokens",
        "Draft tokens that were accepted, by where they came from",
        lambda drafts: drafts.accepted_tokens_total,
    ),
)
_OF_STATES: Final[tuple[tuple[str, str, Callable[[ModelState], float]], ...]] = (
    ("model_loaded", "1 if a model is in memory", lambda state: state.status == "loaded"),
    ("model_loads", "Loads since the worker's start", lambda state: state.loads),
    ("model_load_seconds", "Duration of the last load", lambda state: state.load_s),
)
"""Of models that are loaded on demand."""


@dataclass(frozen=True)
class FleetView:
    """The state of the fleet for a scrape. A queue without a depth could not be read."""

    redis_up: bool
    """Of the home Redis; `groups_up` is of those that have a group of queues."""
    groups_up: Mapping[str, bool] = field(default_factory=dict[str, bool])
    cards: Sequence[ModelCard] = ()
    workers: Sequence[WorkerCard] = ()
    depths: Mapping[str, QueueDepth] = field(default_factory=dict[str, "QueueDepth"])


class FleetCollector(Collector):
    """Collects the gauges of one view."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """Yield each gauge with all its labels."""
        view = self._view
        yield GaugeMetricFamily(
            "penstock_redis_up", "Whether Redis answers this process", value=view.redis_up
        )
        groups = (((name,), is_up) for name, is_up in view.groups_up.items())
        yield _gauge("redis_group_up", "Whether a group's Redis answers", ("group",), groups)
        yield _gauge("workers", "Live workers", QUEUE_LABELS, self._live_workers().items())
        cards = [card for card in view.cards if card.queue in view.depths]
        for name, documentation, of_depth in _OF_QUEUES:
            rows = (((card.name, card.device), of_depth(view.depths[card.queue])) for card in cards)
            yield _gauge(name, documentation, QUEUE_LABELS, rows)
        loads = [
            ((card.name, card.device, worker.id), card, worker.loads[card.queue])
            for worker in view.workers
            for card in worker.models
            if card.queue in worker.loads
        ]
        for name, documentation, of_load in _OF_WORKERS:
            rows = ((labels, of_load(card, load)) for labels, card, load in loads)
            yield _gauge(name, documentation, WORKER_LABELS, rows)
        drafts = [
            ((*labels, kind), counts)
            for labels, _, load in loads
            for kind, counts in sorted(load.drafts_by_kind.items())
        ]
        for name, documentation, of_drafts in _OF_DRAFTS:
            rows = ((labels, of_drafts(counts)) for labels, counts in drafts)
            yield _gauge(name, documentation, (*WORKER_LABELS, "kind"), rows)
        states = [
            ((card.name, card.device, worker.id), worker.states[card.queue])
            for worker in view.workers
            for card in worker.models
            if card.queue in worker.states
        ]
        for name, documentation, of_state in _OF_STATES:
            rows = ((labels, of_state(state)) for labels, state in states)
            yield _gauge(name, documentation, WORKER_LABELS, rows)

    def _live_workers(self) -> Counter[tuple[str, str]]:
        counts = Counter({(card.name, card.device): 0 for card in self._view.cards})
        counts.update(
            (card.name, card.device) for worker in self._view.workers for card in worker.models
        )
        return counts


def _gauge(
    name: str,
    documentation: str,
    labels: tuple[str, ...],
    rows: Iterable[tuple[Sequence[str], float]],
) -> Metric:
    gauge = GaugeMetricFamily(f"penstock_{name}", documentation, labels=labels)
    for values, value in rows:
        gauge.add_metric(values, value)
    return gauge
