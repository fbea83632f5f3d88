"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.anthropic import threads
from api.anthropic.as_chat import blamed, chat_body
from api.anthropic.blocks import MessageWriter, frame
from api.anthropic.route import AnthropicRoute, error_object
from api.anthropic.schema import COUNTING, RULE, CountTokensRequest, MessagesRequest
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_object, validated
from api.http.record import record_of
from api.http.streaming import FramedResponse
from api.jobs.routing import pick
from api.openai.chat.as_chat import generation_of, plan_of
from api.openai.image_sources import images_of_chat
from api.openai.tokens import call
from penstock.contract.events import Finished, Tokens
from penstock.contract.tokenizer_calls import Tokenize

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.jobs.generation import Generation
    from penstock.errors import PenstockError

router = Router(route_class=AnthropicRoute)


@router.endpoint("/v1/messages", MessagesRequest)
async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    services, record = services_of(request), record_of(request)
    body = await read_object(request, services.settings.max_body_bytes)
    threads.check(body)
    RULE.apply(body, MessagesRequest.model_fields, record.warnings)
    asked = validated(body, MessagesRequest)
    record.note_session((asked.metadata or {}).get("user_id"))
    card = pick(request, asked.model)
    chat = chat_body(asked, body, record.warnings)
    gathered = partial(images_of_chat, request, card)
    plan = (await plan_of(chat, card, blamed, record.warnings, gathered)).within_context()
    generation = await generation_of(request, card, plan)
    job_id = generation.jobs[0].id
    heading = {"id": f"msg_{job_id}", "type": "message", "role": "assistant", "model": asked.model}
    reading = replace(plan.reading, show_reasoning=asked.thinks)
    writer = MessageWriter(
        heading, reading, job_id, asked.stop_sequences or (), max_tokens=asked.max_tokens
    )
    if asked.stream:
        return FramedResponse(
            _frames(generation, writer),
            last=partial(_error_frame, record.request_id),
            headers=generation.headers,
        )
    message = await until_disconnect(request.receive, _collect(generation, writer))
    return json_response(message | record.warnings.member(), headers=generation.headers)


@router.endpoint("/v1/messages/count_tokens", CountTokensRequest)
async def count_tokens(request: Request) -> Response:
    """Count the tokens of what the model would see."""
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    warnings = record_of(request).warnings
    threads.check(body)
    COUNTING.apply(body, CountTokensRequest.model_fields, warnings)
    asked = validated(body, CountTokensRequest)
    card = pick(request, asked.model)
    chat = chat_body(asked, body, warnings)
    gathered = partial(images_of_chat, request, card)
    plan = await plan_of(chat, card, blamed, warnings, gathered)
    reply = await call(request, card, Tokenize(plan.prompt), "messages", plan.images)
    return json_response({"input_tokens": len(reply.token_ids)})


async def _collect(generation: Generation, writer: MessageWriter) -> dict[str, Any]:
    last: Tokens | Finished | None = None
    async with aclosing(generation.events()) as events:
        async for item in events:
            if item is not None:
                last = item[1]
                writer.event(last)
    assert isinstance(last, Finished)  # noqa: S101  a generation ends so or raises
    return writer.message(last)


async def _frames(generation: Generation, writer: MessageWriter) -> AsyncGenerator[bytes, None]:
    async with aclosing(generation.events()) as events:
        async for item in events:
            written = writer.begin(0) + frame("ping") if item is None else writer.event(item[1])
            if written:
                yield written


async def _error_frame(request_id: str, error: PenstockError) -> bytes:
    """Return the event that ends a stream which has begun and cannot be finished."""
    body = error_object(error, request_id)
    return frame("error", error=body["error"], request_id=request_id)
