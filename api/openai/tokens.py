"""POST /tokenize, /detokenize (vLLM's shapes) and /v1/chat/completions/render.

They call a worker's tokenizer without the queue, so they never wait for a running answer.
"""

from __future__ import annotations

import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, model_validator
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.json_body import read_json, read_object, validated
from api.http.record import record_of
from api.jobs.routing import pick
from api.openai.chat.messages import chat_prompt
from api.openai.chat.request_body import chat_request
from api.openai.image_sources import images_of_chat
from api.openai.schema import INT64, ChatRequest, Fields, inconsistent
from penstock.contract.job import TextPrompt
from penstock.contract.tokenizer_calls import Detokenize, Render, Tokenize, TokenizerCall
from penstock.errors import BadRequest, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.contract.job import ChatPrompt, Prompt
    from penstock.contract.tokenizer_calls import TokenizerReply
    from penstock.contract.worker import ModelCard

router = Router()

OWN_FIELDS: Final = frozenset({"return_token_strs", "add_special_tokens"})
"""Fields of /tokenize that no chat completion has."""
TIMEOUT_S: Final = 15.0
"""A worker answers within milliseconds; a new one may be loading its model."""


class TokenizeRequest(Fields):
    """Body of POST /tokenize: a prompt, or the messages of a chat."""

    model: str | None = Field(default=None, min_length=1, max_length=500)
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise inconsistent("prompt", "exactly one of prompt and messages is needed")
        return self


class DetokenizeRequest(Fields):
    """Body of POST /detokenize."""

    model: str | None = Field(default=None, min_length=1, max_length=500)
    tokens: list[Annotated[int, Field(ge=0, lt=INT64)]]


@router.endpoint("/tokenize", TokenizeRequest)
async def tokenize(request: Request) -> Response:
    """Return the token ids of a prompt, or of a chat as the model would see it."""
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    asked = validated(body, TokenizeRequest)
    model = asked.model or only_model(request)
    card = pick(request, model)
    prompt: Prompt
    if asked.prompt is None:
        chat = {name: value for name, value in body.items() if name not in OWN_FIELDS}
        asked_chat = chat_request({**chat, "model": model}, record_of(request).warnings)
        prompt, images = await _chat(asked_chat, request, card)
        param = "messages"
    else:
        special = asked.add_special_tokens is not False
        prompt, images, param = (
            TextPrompt(asked.prompt, add_special_tokens=special),
            dict[str, bytes](),
            "prompt",
        )
    token_ids = (await call(request, card, Tokenize(prompt), param, images)).token_ids
    texts: list[str] | None = None
    if asked.return_token_strs:
        one_by_one = Detokenize(token_ids, each=True)
        texts = list((await call(request, card, one_by_one, param)).texts)
    return json_response(
        {
            "count": len(token_ids),
            "max_model_len": card.context_length,
            "tokens": token_ids,
            "token_strs": texts,
        }
    )


@router.endpoint("/detokenize", DetokenizeRequest)
async def detokenize(request: Request) -> Response:
    """Return the text of token ids."""
    limit = services_of(request).settings.max_body_bytes
    asked = await read_json(request, DetokenizeRequest, limit)
    card = pick(request, asked.model or only_model(request))
    beyond = next((token for token in asked.tokens if token >= card.vocab_size), None)
    if beyond is not None:
        raise InvalidParameter(
            f"tokens: {beyond} is outside of the vocabulary of {card.vocab_size} tokens",
            param="tokens",
        )
    reply = await call(request, card, Detokenize(tuple(asked.tokens)), "tokens")
    return json_response({"prompt": reply.text})


@router.endpoint("/v1/chat/completions/render", ChatRequest)
async def render(request: Request) -> Response:
    """Return what the model would see for the body of a chat completion."""
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    asked = chat_request(body, record_of(request).warnings)
    card = pick(request, asked.model)
    prompt, images = await _chat(asked, request, card)
    text = (await call(request, card, Render(prompt), "messages")).text
    token_ids = (await call(request, card, Tokenize(prompt), "messages", images)).token_ids
    return json_response(
        {
            "object": "chat.completion.prompt",
            "model": body["model"],
            "prompt": text,
            "token_ids": token_ids,
            "prompt_tokens": len(token_ids),
            "max_model_len": card.context_length,
        }
    )


async def _chat(
    asked: ChatRequest, request: Request, card: ModelCard
) -> tuple[ChatPrompt, dict[str, bytes]]:
    """Return the prompt of a chat completion, and its images by digest."""
    images = await images_of_chat(request, card, asked)
    return chat_prompt(asked, images), images.data


def only_model(request: Request) -> str:
    """Return the model that a request without one means.

    :raises InvalidParameter: none is served, or several.
    """
    cards = services_of(request).registry.models()
    names = {card.name for card in cards if card.adapter is None}
    if len(names) != 1:
        raise InvalidParameter(f"model: {len(names)} models are served: name one", param="model")
    return names.pop()


async def call(
    request: Request,
    card: ModelCard,
    asked: Tokenize | Detokenize | Render,
    param: str,
    images: Mapping[str, bytes] = MappingProxyType({}),
) -> TokenizerReply:
    """Return a worker's reply. `images` are those that the prompt names, by digest.

    :raises PenstockError: the error in the reply, with `param` if the request is at fault.
    """
    question = TokenizerCall(uuid.uuid4().hex, card.queue, "", asked)
    services = services_of(request)
    await services.images.store(images, card.queue, TIMEOUT_S)
    try:
        return await services.replies.call(question, TIMEOUT_S)
    except BadRequest as error:
        error.param = error.param or param
        raise
