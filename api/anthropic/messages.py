"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import pick, services_of
from api.anthropic.as_chat import blamed, chat_body
from api.anthropic.blocks import MessageWriter, frame
from api.anthropic.route import AnthropicRoute, error_object
from api.anthropic.schema import UNSUPPORTED, CountTokensRequest, MessagesRequest
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_object, validated
from api.http.middleware import record_of
from api.http.streaming import FramedResponse
from api.openai import unsupported
from api.openai.chat import sampling, tools
from api.openai.chat.as_chat import generation_of
from api.openai.chat.messages import chat_prompt
from api.openai.documentation import documented
from api.openai.schema import ChatRequest
from api.openai.tokens import call
from penstock.contract.events import Finished, Tokens
from penstock.contract.job import Generate
from penstock.contract.tokenizer_calls import Tokenize
from penstock.errors import BadRequest, PenstockError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from api.jobs.generation import Generation
    from penstock.contract.worker import ModelCard

router = APIRouter(route_class=AnthropicRoute)


@router.post("/v1/messages", openapi_extra=documented(MessagesRequest))
async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    services, record = services_of(request), record_of(request)
    body = await read_object(request, services.settings.max_body_bytes)
    unsupported.refuse(body, UNSUPPORTED)
    asked = validated(body, MessagesRequest)
    card = pick(request, asked.model)
    chat, work = _chat(asked, body, card)
    generation = await generation_of(request, card, chat, work, blamed=blamed)
    job_id = generation.jobs[0].id
    heading = {"id": f"msg_{job_id}", "type": "message", "role": "assistant", "model": asked.model}
    wanted = asked.thinking is not None and asked.thinking.type != "disabled"
    reading = replace(tools.reading_of(chat, card), show_reasoning=wanted)
    writer = MessageWriter(heading, reading, job_id, asked.stop_sequences or ())
    if asked.stream:
        return FramedResponse(
            _frames(generation, writer),
            last=partial(_error_frame, record.request_id),
            headers=generation.headers,
        )
    message = await until_disconnect(request.receive, _collect(generation, writer))
    return json_response(message, headers=generation.headers)


@router.post("/v1/messages/count_tokens", openapi_extra=documented(CountTokensRequest))
async def count_tokens(request: Request) -> Response:
    """Count the tokens of what the model would see."""
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    asked = validated(body, CountTokensRequest)
    card = pick(request, asked.model)
    _, work = _chat(asked, body, card)
    reply = await call(request, card, Tokenize(work.prompt), "messages")
    return json_response({"input_tokens": len(reply.token_ids)})


def _chat(
    asked: CountTokensRequest, body: dict[str, Any], card: ModelCard
) -> tuple[ChatRequest, Generate]:
    """Return the chat completion that means the same, and its work."""
    chat = chat_body(asked, body)
    try:
        parsed = validated(chat, ChatRequest)
        how = sampling.sampling(parsed, card, default_max_tokens=None)
        return parsed, Generate(chat_prompt(parsed), how)
    except BadRequest as error:
        error.param = blamed(error.param)
        raise


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
