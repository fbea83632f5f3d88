"""What watches a worker's events: metrics and traces, as the settings have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from penstock.observability.tracing import Tracing
from workers.serving.metrics import WorkerMetrics
from workers.serving.tracing import AttemptSpans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.settings import Settings
    from workers.serving.claimed_jobs import ClaimedJobs
    from workers.serving.hooks import Watcher
    from workers.serving.served_queue import ServedQueue

logger = get_logger(__name__)


def watchers_of(
    settings: Settings,
    claimed: ClaimedJobs,
    worker_id: str,
    served_queues: Mapping[str, ServedQueue],
) -> tuple[list[Watcher], str]:
    """Start metrics and traces; return them, and the URL of the metrics (empty without)."""
    watchers: list[Watcher] = []
    metrics_url = ""
    if settings.metrics_port:
        metrics = WorkerMetrics(claimed, worker_id)
        metrics.show(served_queues)
        metrics_url = metrics.serve(settings)
        logger.info("Metrics at %s", metrics_url)
        watchers.append(metrics)
    tracing = Tracing.of(settings, "penstock-worker")
    if tracing is not None:
        watchers.append(AttemptSpans(tracing, claimed, worker_id))
    return watchers, metrics_url
