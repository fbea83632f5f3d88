"""GET /v1/jobs/{id}, its events again from anywhere, and DELETE to cancel.

A job's id is in the header `x-penstock-jobs` of its answer, and in the answer's own id. A client
whose connection broke continues here, at any API process; watching does not own a job,
so going away from here cancels nothing.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import Request
from starlette.responses import Response

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.record import record_of
from api.http.resumption import EVENT_HEADER, SeenEvent, seen_event
from api.http.streaming import KEEPALIVE, FramedResponse, error_frame
from api.jobs.event_ids import EventIds
from api.services import Services
from penstock.contract.events import Event, Failed, Finished
from penstock.errors import UnknownJob
from penstock.transport.jobs.records import JobState

router = Router(tags=["jobs"])

PREFIXES = ("chatcmpl-", "cmpl-")


@router.endpoint("/v1/jobs/{job_id}", method="GET")
async def show_job(request: Request, job_id: str) -> Response:
    """Return a job's status."""
    state = await _own_job(request, job_id)
    return json_response(
        {
            "id": state.job_id,
            "object": "job",
            "queue": state.queue,
            "status": state.status,
            "tokens": state.next_index,
            "created_ms": state.created_ms,
            "deadline_ms": state.deadline_ms,
        }
    )


@router.endpoint("/v1/jobs/{job_id}/events", method="GET")
async def job_events(request: Request, job_id: str, after: str | None = None) -> Response:
    """Stream a job's events after `after` (an index or an id; or the header Last-Event-ID).

    :raises Overloaded: it has as many readers here as it may.
    """
    services = services_of(request)
    services.replies.check_room(_bare(job_id))  # before it costs anything
    seen = seen_event(request.headers.get(EVENT_HEADER) if after is None else after, "after")
    state = await _own_job(request, job_id)
    if state.reply != services.replies.channel:
        await services.queue.redirect(state.job_id, services.replies.channel)
    return FramedResponse(_frames(services, state, seen), last=error_frame)


@router.endpoint("/v1/jobs/{job_id}", method="DELETE")
async def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    state = await _own_job(request, job_id)
    status = await services_of(request).queue.cancel(state.job_id)
    return json_response({"id": state.job_id, "object": "job", "status": status})


def _bare(job_id: str) -> str:
    """Return a job's id without what an answer's id begins with."""
    for prefix in PREFIXES:
        job_id = job_id.removeprefix(prefix)
    return job_id


async def _own_job(request: Request, job_id: str) -> JobState:
    """Return a job of the caller's own.

    :raises UnknownJob: unknown, or owned by another tenant; deliberately indistinguishable.
    """
    job_id = _bare(job_id)
    state = await services_of(request).queue.state(job_id)
    if state.tenant != record_of(request).tenant:
        raise UnknownJob(f"There is no job {job_id}")
    return state


async def _frames(
    services: Services, state: JobState, seen: SeenEvent
) -> AsyncGenerator[bytes, None]:
    tick_s = services.settings.keepalive_s
    # At once: the job is there, and its watcher need not wait for its next event to know.
    follow = services.replies.follow(state.queue, state.job_id, tick_s=tick_s, at_once=True)
    ids = EventIds(seen)
    async with aclosing(follow) as events:
        async for event in events:
            if event is None:
                yield KEEPALIVE
            elif isinstance(event, Failed) or ids.is_new(event):
                yield _frame(event, ids)


def _frame(event: Event, ids: EventIds) -> bytes:
    match event:
        case Finished():
            kind = b"finished"
        case Failed():
            return b"id: %d\nevent: failed\ndata: %b\n\n" % (
                event.index,
                msgspec.json.encode(event),
            )
        case _:
            kind = b"tokens"
    return b"%bevent: %b\ndata: %b\n\n" % (ids.line(), kind, msgspec.json.encode(event))
