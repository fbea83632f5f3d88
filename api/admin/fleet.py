"""What the fleet does, for the page and for scripts, and the two things an operator does to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import HTTPException, Request
from redis.exceptions import RedisError
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.admin.history import flush_history
from api.endpoint import Router
from api.http.errors import json_response
from penstock.clock import clock
from penstock.errors import InvalidParameter, StoreUnavailable
from penstock.transport.fleet.overview import Overview, QueueMinute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from typing import TypeVar

    from penstock.contract.worker import ModelCard, ModelState, WorkerCard, WorkerLoad
    from penstock.transport.fleet.overview import OpenJob
    from penstock.transport.fleet.registry import Served
    from penstock.transport.jobs.records import QueueDepth

    Answer = TypeVar("Answer")

router = Router(tags=["operations"])

MOST_JOBS: Final = 50
"""Jobs of each queue that are listed, running and waiting each."""
MOST_MINUTES: Final = 120


@router.endpoint("/admin/fleet", method="GET")
async def fleet(request: Request) -> Response:
    """Show workers, queues and open jobs as they are now.

    :raises StoreUnavailable: Redis has been away for too long to know.
    """
    services = services_of(request)
    known = sorted(services.registry.known(), key=lambda served: served.card.queue)
    workers = sorted(services.registry.workers(), key=lambda worker: (worker.host, worker.pid))
    overview = Overview(services.stores)
    queues = [served.card.queue for served in known]
    jobs, resting, depths = await _answered(
        asyncio.gather(
            overview.open_jobs(queues, MOST_JOBS),
            overview.resting([worker.id for worker in workers]),
            overview.depths(queues),
        )
    )
    now_ms, adapters = clock.now_ms(), services.registry.adapters()
    return json_response(
        {
            "now_ms": now_ms,
            "queues": [_queue(served, depths[served.card.queue], adapters) for served in known],
            "workers": [_worker(worker, now_ms, worker.id in resting) for worker in workers],
            "jobs": [_job(job) for job in jobs],
        }
    )


@router.endpoint("/admin/fleet/history", method="GET")
async def history(request: Request, minutes: str = "60") -> Response:
    """Show tokens and latencies minute by minute, as all API processes have measured them."""
    count = _minutes(minutes)
    services = services_of(request)
    await flush_history(services)
    now_s, rows = await _answered(Overview(services.redis).history(count))
    queues = sorted({queue for row in rows for queue in row})
    empty = QueueMinute()
    fields = QueueMinute.__struct_fields__
    return json_response(
        {
            "now_s": now_s,
            "minutes": [(now_s // 60 - count + 1 + index) * 60 for index in range(count)],
            "queues": {
                queue: {
                    field: [getattr(row.get(queue, empty), field) for row in rows]
                    for field in fields
                }
                for queue in ("", *(queue for queue in queues if queue))
            },
        }
    )


@router.endpoint("/admin/workers/{worker_id}/drain")
async def drain(request: Request, worker_id: str) -> Response:
    """Make a worker finish its jobs and claim nothing more, until it is asked to resume."""
    return await _ask(request, worker_id, rest=True)


@router.endpoint("/admin/workers/{worker_id}/resume")
async def resume(request: Request, worker_id: str) -> Response:
    """Have a drained worker claim jobs again."""
    return await _ask(request, worker_id, rest=False)


@router.endpoint("/admin/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: str) -> Response:
    """Cancel a job of any tenant; one that has ended stays as it is.

    :raises UnknownJob: it is not there.
    """
    status = await services_of(request).queue.cancel(job_id)
    return json_response({"id": job_id, "object": "job", "status": status})


def _minutes(text: str) -> int:
    minutes = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 0  # noqa: PLR2004  an hour or two
    if not 1 <= minutes <= MOST_MINUTES:
        raise InvalidParameter(f"minutes: from 1 to {MOST_MINUTES}", param="minutes")
    return minutes


async def _ask(request: Request, worker_id: str, *, rest: bool) -> Response:
    services = services_of(request)
    workers = (worker for worker in services.registry.workers() if worker.id == worker_id)
    if (worker := next(workers, None)) is None:
        raise HTTPException(404, "There is no such worker")
    queue = worker.models[0].queue if worker.models else ""
    await _answered(Overview(services.stores).ask_to_rest(worker_id, queue, rest=rest))
    return json_response({"id": worker_id, "object": "worker", "drain_requested": rest})


async def _answered(call: Awaitable[Answer]) -> Answer:
    """Return what Redis answers.

    :raises StoreUnavailable: it does not; the page asks again soon.
    """
    try:
        return await call
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer: {error}", retry_after_s=1.0) from error


def _queue(served: Served, depth: QueueDepth, adapters: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        **_model(served.card),
        "aliases": served.card.aliases,
        "adapters": adapters.get(served.card.queue, []),
        "capabilities": served.card.capabilities,
        "context_length": served.card.context_length,
        "live_workers": len(served.workers),
        "slots": served.slots,
        "waiting_jobs": depth.waiting_jobs,
        "waiting_tokens": depth.waiting_tokens,
        "running": depth.running,
        "oldest_age_s": depth.oldest_age_s,
        "decode_tokens_per_s": served.load.decode_tokens_per_s,
        "kv_use": served.load.kv_use,
        "seen_s": served.seen_s,
    }


def _worker(worker: WorkerCard, now_ms: int, rests: bool) -> dict[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "started_ms": worker.started_ms,
        "heartbeat_age_s": max(now_ms - worker.heartbeat_ms, 0) / 1000,
        "draining": worker.draining,
        "drain_requested": rests,
        "models": [
            {
                **_model(card),
                "slots": card.slots,
                "state": worker.status_of(card.queue),
                **_on_demand(worker.states.get(card.queue)),
                "adapters_in_memory": worker.adapters.get(card.queue, ()),
                **_load(worker.loads.get(card.queue)),
            }
            for card in worker.models
        ],
    }


def _on_demand(state: ModelState | None) -> dict[str, Any]:
    """Return what is known of a model that is loaded on demand."""
    if state is None:
        return {}
    return {"load_s": state.load_s, "loads": state.loads, "load_error": state.error}


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "model": card.name,
        "queue": card.queue,
        "device": card.device,
        "backend": card.backend,
        "format": card.format,
        "parameters": card.parameters,
        "weights_bytes": card.weights_bytes,
        "kv_cache_tokens": card.kv_cache_tokens,
    }


def _load(load: WorkerLoad | None) -> dict[str, Any]:
    if load is None:
        return {}
    return {field: getattr(load, field) for field in load.__struct_fields__}


def _job(job: OpenJob) -> dict[str, Any]:
    return {field: getattr(job, field) for field in job.__struct_fields__}
