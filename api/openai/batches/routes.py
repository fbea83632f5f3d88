"""/v1/batches: create, list, show and cancel; `api.openai.batches.driver` runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.record import record_of
from api.openai.batches.files import page, store_of
from api.openai.batches.lines import MODEL_ENDPOINTS
from api.openai.batches.storage import objects_of
from api.openai.batches.store import ENDED, Batch, BatchStore, new_batch_id
from api.openai.responses.schema import Metadata  # noqa: TC001  pydantic reads the annotation
from api.openai.schema import Fields
from penstock.clock import clock
from penstock.errors import InvalidParameter, UnknownObject

if TYPE_CHECKING:
    from penstock.settings import Settings

router = Router()

DAY_S: Final = 86_400
TIMED: Final = (
    "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip


class BatchRequest(Fields):
    """Body of POST /v1/batches."""

    input_file_id: str = Field(min_length=1, max_length=200)
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


def _store(settings: Settings) -> BatchStore:
    return BatchStore(objects_of(settings))


def batch_object(batch: Batch) -> dict[str, Any]:
    """Return OpenAI's object."""
    errors = {"object": "list", "data": list(batch.errors)} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_s,
        "expires_at": batch.expires_s,
        **{f"{status}_at": batch.times.get(status) for status in TIMED},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
    }


@router.endpoint("/v1/batches", BatchRequest)
async def create_batch(request: Request) -> Response:
    """Accept a file of requests; they run with the lowest priority."""
    settings, record = services_of(request).settings, record_of(request)
    asked = await read_json(request, BatchRequest, settings.max_body_bytes)
    routed = request.app.openapi()["paths"]
    served = [endpoint for endpoint in MODEL_ENDPOINTS if endpoint in routed]
    if asked.endpoint not in served:
        raise InvalidParameter(f"endpoint: must be one of {', '.join(served)}", param="endpoint")
    try:
        card = await asyncio.to_thread(store_of(settings).own, asked.input_file_id, record.tenant)
    except UnknownObject as error:
        raise InvalidParameter(error.message, param="input_file_id") from error
    if card.purpose != "batch":
        raise InvalidParameter(
            f"input_file_id: the file's purpose is {card.purpose}, not batch",
            param="input_file_id",
        )
    now_s = int(clock.now_s())
    batch = Batch(
        id=new_batch_id(),
        tenant=record.tenant,
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        created_s=now_s,
        expires_s=now_s + DAY_S,
        key=record.caller.card,
        metadata=asked.metadata,
    )
    await asyncio.to_thread(_store(settings).add, batch)
    return json_response(batch_object(batch))


@router.endpoint("/v1/batches", method="GET")
async def list_batches(request: Request, limit: int = 20, after: str | None = None) -> Response:
    """List the caller's batches, the newest first."""
    store = _store(services_of(request).settings)
    batches = await asyncio.to_thread(store.batches, record_of(request).tenant)
    return json_response(page([batch_object(batch) for batch in batches], limit, after))


@router.endpoint("/v1/batches/{batch_id}", method="GET")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """Return a batch's current state."""
    store = _store(services_of(request).settings)
    batch = await asyncio.to_thread(store.own, batch_id, record_of(request).tenant)
    return json_response(batch_object(batch))


@router.endpoint("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Cancel a batch; what is done of it is kept."""
    store, tenant = _store(services_of(request).settings), record_of(request).tenant
    batch = await asyncio.to_thread(store.own, batch_id, tenant)
    if batch.status in ENDED:
        raise InvalidParameter(f"The batch has ended: it is {batch.status}", param="batch_id")
    await asyncio.to_thread(store.cancel, batch_id)
    return json_response(batch_object(await asyncio.to_thread(store.own, batch_id, tenant)))
