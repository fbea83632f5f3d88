"""Jobs by the `Idempotency-Key` of their request, for a client that never saw its answer begin.

A request's headers come with its first token. A page that is reloaded, or stopped, before
that knows its key only.
"""

from __future__ import annotations

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.record import record_of
from api.http.resumption import Resumption

router = Router(tags=["jobs"])


@router.endpoint("/v1/requests/{key}", method="GET")
async def show(request: Request, key: str) -> Response:
    """Name the first job of a request of the caller's own.

    :raises UnknownJob: it has not arrived, or its journal has expired.
    """
    state = await services_of(request).queue.state(_job_id(request, key))
    return json_response({"object": "request", "job": state.job_id, "status": state.status})


@router.endpoint("/v1/requests/{key}", method="DELETE")
async def cancel(request: Request, key: str) -> Response:
    """Cancel the first job of a request of the caller's own.

    :raises UnknownJob: as `show`.
    """
    job_id = _job_id(request, key)
    status = await services_of(request).queue.cancel(job_id)
    return json_response({"object": "request", "job": job_id, "status": status})


def _job_id(request: Request, key: str) -> str:
    return Resumption(key).job_id(record_of(request).tenant, 0)
