"""/v1/responses: answers that are kept, gone on from, made in the background and streamed again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import pick, services_of
from api.access.resumption import event_index, resumption_of
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_object, validated
from api.http.middleware import record_of
from api.openai import unsupported
from api.openai.chat import sampling, tools
from api.openai.chat.as_chat import generation_of
from api.openai.chat.messages import chat_prompt
from api.openai.documentation import documented
from api.openai.responses.events import ResponseBuilder, output_items
from api.openai.responses.input_items import blamed, chat_body, items_of
from api.openai.responses.item_references import RESPONSE, resolved
from api.openai.responses.record import StoredResponse
from api.openai.responses.schema import UNSUPPORTED, ResponseRequest
from api.openai.responses.store import Shelf
from api.openai.responses.stream import live_stream, stored_stream
from api.openai.schema import ChatRequest
from api.openai.tokens import call
from penstock.clock import clock
from penstock.contract.job import Generate
from penstock.contract.tokenizer_calls import Tokenize
from penstock.errors import BadRequest, InvalidParameter, UnknownObject, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.worker import ModelCard

router = APIRouter()

MOST_LISTED: Final = 100


@router.post("/v1/responses", openapi_extra=documented(ResponseRequest))
async def create_response(request: Request) -> Response:
    """Answer, at once or in the background."""
    services, record = services_of(request), record_of(request)
    body, asked = await _read(request)
    card = pick(request, asked.model)
    if asked.background and card.backend == "fastchat":
        raise UnsupportedFeature("this model has no background answers", param="background")
    shelf = Shelf(services)
    chain = await _chain(shelf, record.tenant, asked.previous_response_id)
    asked = await resolved(asked, shelf, record.tenant, chain)
    chat, work = _chat(asked, body, chain, card)
    if asked.background:
        record.deadline_s = record.deadline_s or services.settings.background_deadline_s
    generation = await generation_of(
        request, card, chat, work, blamed=blamed, detached=bool(asked.background)
    )
    job = generation.jobs[0]
    response_id = RESPONSE + job.id
    stored = StoredResponse(
        id=response_id,
        tenant=record.tenant,
        job_id=job.id,
        created_s=int(clock.now_s()),
        asked=_shown(asked, body, work),
        input=tuple(items_of(asked, response_id)),
        ancestors=tuple(one.id for one in chain),
        background=bool(asked.background),
        reader=asdict(tools.reading_of(chat, card)),
        hidden_token_ids=frozenset(work.sampling.stop_token_ids),
    )
    if asked.stores:
        stored = await shelf.open(stored)
    if asked.background:
        await shelf.leave_running(stored, generation)
        if asked.stream:
            return await stored_stream(services, stored, headers=generation.headers)
        # As it began, though it may run by now; what a repeated request finds, as it stands.
        is_new = resumption_of(request) is None
        begun = ResponseBuilder(stored).response() if is_new else await shelf.shown(stored)
        return json_response(begun, headers=generation.headers)
    keeper = shelf.keeper(stored) if asked.stores else None
    if asked.stream:
        return live_stream(generation, stored, keeper)
    whole = shelf.collect(generation, stored, keeper)
    return json_response(await until_disconnect(request.receive, whole), headers=generation.headers)


@router.post("/v1/responses/input_tokens", openapi_extra=documented(ResponseRequest))
async def count_input_tokens(request: Request) -> Response:
    """Count the tokens of what the model would see."""
    body, asked = await _read(request)
    card = pick(request, asked.model)
    shelf, tenant = Shelf(services_of(request)), record_of(request).tenant
    chain = await _chain(shelf, tenant, asked.previous_response_id)
    asked = await resolved(asked, shelf, tenant, chain)
    _, work = _chat(asked, body, chain, card)
    reply = await call(request, card, Tokenize(work.prompt), "input")
    return json_response({"object": "response.input_tokens", "input_tokens": len(reply.token_ids)})


@router.get("/v1/responses/{response_id}")
async def retrieve_response(
    request: Request,
    response_id: str,
    stream: str | None = None,
    starting_after: str | None = None,
) -> Response:
    """Show a response as it stands, or stream its events after `starting_after`."""
    services = services_of(request)
    shelf = Shelf(services)
    stored = await shelf.own(response_id, record_of(request).tenant)
    if stream in ("true", "1", "True"):
        after = event_index(starting_after, "starting_after")
        return await stored_stream(services, stored, after=after)
    return json_response(await shelf.shown(stored))


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a response in the background; one that has ended stays as it is."""
    shelf = Shelf(services_of(request))
    stored = await shelf.own(response_id, record_of(request).tenant)
    if not stored.background:
        raise InvalidParameter("Only background responses can be cancelled", param="response_id")
    return json_response(await shelf.cancel(stored))


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response; one that runs is cancelled."""
    shelf = Shelf(services_of(request))
    stored = await shelf.own(response_id, record_of(request).tenant)
    await shelf.delete(stored)
    return json_response({"id": stored.id, "object": "response.deleted", "deleted": True})


@router.get("/v1/responses/{response_id}/input_items")
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
    unsupported.refuse(body, UNSUPPORTED)
    return body, validated(body, ResponseRequest)


async def _chain(shelf: Shelf, tenant: str, previous_id: str | None) -> list[StoredResponse]:
    """Return the responses that a request goes on from, the oldest first.

    :raises UnknownObject: one of them is not kept any more.
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


def _chat(
    asked: ResponseRequest,
    body: dict[str, Any],
    chain: Sequence[StoredResponse],
    card: ModelCard,
) -> tuple[ChatRequest, Generate]:
    """Return the chat completion that means the same, and its work."""
    history = [item for one in chain for item in (*one.input, *output_items(one))]
    chat = chat_body(asked, body, history, items_of(asked, ""))
    try:
        unsupported.refuse(chat, unsupported.CHAT)
        parsed = validated(chat, ChatRequest)
        how = sampling.sampling(parsed, card, default_max_tokens=None)
        return parsed, Generate(chat_prompt(parsed), how)
    except BadRequest as error:
        error.param = blamed(error.param)
        raise


def _shown(asked: ResponseRequest, body: dict[str, Any], work: Generate) -> dict[str, Any]:
    """Return the request's fields as the response's object shows them again."""
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
        "temperature": work.sampling.temperature,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
        "tools": asked.tools or [],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": work.sampling.top_p,
        "truncation": "disabled",
        "user": asked.user,
    }
