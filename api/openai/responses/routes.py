"""/v1/responses: answers that are stored, continued, made in the background and streamed again."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_object, validated
from api.http.record import record_of
from api.http.resumption import event_index, resumption_of
from api.jobs.routing import pick
from api.openai.chat.as_chat import generation_of, plan_of
from api.openai.image_sources import images_of_chat
from api.openai.responses.events import ResponseBuilder, output_items
from api.openai.responses.input_items import blamed, chat_body, items_of
from api.openai.responses.item_references import RESPONSE, resolved
from api.openai.responses.record import StoredResponse
from api.openai.responses.schema import EXTENSIONS, RULE, ResponseRequest
from api.openai.responses.store import Shelf
from api.openai.responses.stream import live_stream, stored_stream
from api.openai.tokens import call
from penstock.clock import clock
from penstock.contract.tokenizer_calls import Tokenize
from penstock.errors import InvalidParameter, UnknownObject, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.openai.chat.plan import ChatPlan
    from api.openai.responses.input_tools import Namespaces
    from penstock.contract.job import Sampling
    from penstock.contract.worker import ModelCard

router = Router()

MOST_LISTED: Final = 100


@router.endpoint("/v1/responses", ResponseRequest)
async def create_response(request: Request) -> Response:
    """Answer, at once or in the background."""
    services, record = services_of(request), record_of(request)
    body, asked = await _read(request)
    card = pick(request, asked.model)
    if asked.background and not services.carrier(card).runs_detached:
        raise UnsupportedFeature("this model has no background answers", param="background")
    shelf = Shelf(services)
    chain = await _chain(shelf, record.tenant, asked.previous_response_id)
    asked = await resolved(asked, shelf, record.tenant, chain)
    plan, namespaces = await _plan(asked, body, chain, card, request)
    if asked.background:
        record.deadline_s = record.deadline_s or services.settings.background_deadline_s
    generation = await generation_of(request, card, plan, detached=bool(asked.background))
    job = generation.jobs[0]
    response_id = RESPONSE + job.id
    stored = StoredResponse(
        id=response_id,
        tenant=record.tenant,
        job_id=job.id,
        created_s=int(clock.now_s()),
        asked=_shown(asked, body, plan.first.sampling),
        input=tuple(items_of(asked, response_id)),
        ancestors=tuple(earlier.id for earlier in chain),
        background=bool(asked.background),
        reader=asdict(plan.reading),
        namespaces=namespaces,
        warnings=tuple(record.warnings.texts),
        hidden_token_ids=plan.hidden_token_ids,
    )
    if asked.stores:
        stored = await shelf.open(stored)
    if asked.background:
        await shelf.leave_running(stored, generation)
        if asked.stream:
            return await stored_stream(services, stored, headers=generation.headers)
        # Its initial state, though it may run by now; for a repeated request, its current state.
        is_new = resumption_of(request) is None
        begun = ResponseBuilder(stored).response() if is_new else await shelf.shown(stored)
        return json_response(begun, headers=generation.headers)
    keeper = shelf.keeper(stored) if asked.stores else None
    if asked.stream:
        return live_stream(generation, stored, keeper)
    answer = shelf.collect(generation, stored, keeper)
    return json_response(
        await until_disconnect(request.receive, answer), headers=generation.headers
    )


@router.endpoint("/v1/responses/input_tokens", ResponseRequest)
async def count_input_tokens(request: Request) -> Response:
    """Count the tokens of what the model would see."""
    body, asked = await _read(request)
    card = pick(request, asked.model)
    shelf, tenant = Shelf(services_of(request)), record_of(request).tenant
    chain = await _chain(shelf, tenant, asked.previous_response_id)
    asked = await resolved(asked, shelf, tenant, chain)
    plan, _ = await _plan(asked, body, chain, card, request)
    reply = await call(request, card, Tokenize(plan.prompt), "input", plan.images)
    return json_response({"object": "response.input_tokens", "input_tokens": len(reply.token_ids)})


@router.endpoint("/v1/responses/{response_id}", method="GET")
async def retrieve_response(
    request: Request,
    response_id: str,
    stream: str | None = None,
    starting_after: str | None = None,
) -> Response:
    """Return a response's current state, or stream its events after `starting_after`."""
    services = services_of(request)
    shelf = Shelf(services)
    stored = await shelf.own(response_id, record_of(request).tenant)
    if stream in ("true", "1", "True"):
        after = event_index(starting_after, "starting_after")
        return await stored_stream(services, stored, after=after)
    return json_response(await shelf.shown(stored))


@router.endpoint("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a response in the background; one that has ended stays as it is."""
    shelf = Shelf(services_of(request))
    stored = await shelf.own(response_id, record_of(request).tenant)
    if not stored.background:
        raise InvalidParameter("Only background responses can be cancelled", param="response_id")
    return json_response(await shelf.cancel(stored))


@router.endpoint("/v1/responses/{response_id}", method="DELETE")
async def delete_response(request: Request, response_id: str) -> Response:
    """Delete a response; if it is running it is cancelled."""
    shelf = Shelf(services_of(request))
    stored = await shelf.own(response_id, record_of(request).tenant)
    await shelf.delete(stored)
    return json_response({"id": stored.id, "object": "response.deleted", "deleted": True})


@router.endpoint("/v1/responses/{response_id}/input_items", method="GET")
async def list_input_items(
    request: Request,
    response_id: str,
    limit: int = 20,
    order: str = "desc",
    after: str | None = None,
) -> Response:
    """List the items that a response was made from, the newest first."""
    stored = await Shelf(services_of(request)).own(response_id, record_of(request).tenant)
    if not 1 <= limit <= MOST_LISTED:
        raise InvalidParameter(f"limit: must be from 1 to {MOST_LISTED}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidParameter("order: must be asc or desc", param="order")
    items = list(stored.input if order == "asc" else reversed(stored.input))
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidParameter(f"after: there is no item {after[:80]!r}", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
    )


async def _read(request: Request) -> tuple[dict[str, Any], ResponseRequest]:
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    RULE.apply(body, ResponseRequest.model_fields | EXTENSIONS, record_of(request).warnings)
    asked = validated(body, ResponseRequest)
    record_of(request).note_session(asked.prompt_cache_key)
    return body, asked


async def _chain(shelf: Shelf, tenant: str, previous_id: str | None) -> list[StoredResponse]:
    """Return the responses that a request continues, the oldest first.

    :raises UnknownObject: one of them is not stored any more.
    :raises InvalidParameter: the last one has not ended.
    """
    if previous_id is None:
        return []
    try:
        last = await shelf.settled(await shelf.own(previous_id, tenant))
        chain = [*await shelf.ancestors(last), last]
    except UnknownObject as error:
        error.param = "previous_response_id"
        raise
    if last.ending is None:
        raise InvalidParameter(
            f"The response {last.id} has not ended yet", param="previous_response_id"
        )
    return chain


async def _plan(
    asked: ResponseRequest,
    body: dict[str, Any],
    chain: Sequence[StoredResponse],
    card: ModelCard,
    request: Request,
) -> tuple[ChatPlan, Namespaces]:
    """Return the plan of the chat completion that means the same, and its tools' namespaces."""
    history = [item for earlier in chain for item in (*earlier.input, *output_items(earlier))]
    warnings = record_of(request).warnings
    chat, namespaces = chat_body(asked, body, history, items_of(asked, ""), warnings)
    gathered = partial(images_of_chat, request, card)
    return await plan_of(chat, card, blamed, warnings, gathered), namespaces


def _shown(asked: ResponseRequest, body: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
    """Return the request's fields as the response's object repeats them."""
    reasoning = asked.reasoning
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "store": asked.stores,
        "temperature": sampling.temperature,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
        "tools": asked.tools or [],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }
