"""FastChat's worker: the address that the controller hands out, for every model of the fleet."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.dependencies import pick, services_of
from api.disconnect import until_disconnect
from api.embedding import as_base64, embed
from api.errors import json_response
from api.fastchat import relay
from api.fastchat.controller import own_names
from api.fastchat.envelope import conversation
from api.fastchat.frames import stream_frames, whole
from api.fastchat.membership import fleet_status
from api.fastchat.route import STREAM_PATH, FastChatRoute, read
from api.fastchat.schema import (
    Body,
    CountRequest,
    EmbeddingsRequest,
    GenerationRequest,
    OptionalModelName,
    generate_of,
    prompt_of,
)
from api.generation import Generation
from api.middleware import record_of
from api.placing import FASTCHAT
from api.streaming import FramedResponse
from penstock.contract.utility import Tokenize, UtilityCall
from penstock.errors import UnknownModel

if TYPE_CHECKING:
    from penstock.contract.worker import ModelCard

router = APIRouter(route_class=FastChatRoute)

UTILITY_PATIENCE_S = 30.0


def _pick(request: Request, model: str | None) -> ModelCard:
    """Return the queue for a model; without a name, the only model that there is.

    :raises UnknownModel, NoWorker, StoreUnavailable:
    """
    if model is None:
        names = {card.name for card in services_of(request).registry.models()}
        if len(names) != 1:
            raise UnknownModel("`model` is missing, and there is not just one", param="model")
        (model,) = names
    return pick(request, model)


def _told_on(asked: Body, card: ModelCard) -> dict[str, Any]:
    """Return the body that goes to a FastChat worker: what the client has said, and no defaults."""
    return {**asked.model_dump(exclude_unset=True), "model": card.name}


async def _elsewhere(request: Request, card: ModelCard, asked: Body) -> Response:
    """Return what a FastChat worker answers to the same call."""
    services = services_of(request)
    timeout_s = services.settings.fastchat_worker_timeout_s
    work = relay.post(services.peers, request.url.path, card.name, _told_on(asked, card), timeout_s)
    return json_response(await until_disconnect(request.receive, work))


async def _generation(request: Request, asked: GenerationRequest, card: ModelCard) -> Generation:
    return await Generation.of(
        services_of(request),
        record_of(request),
        card,
        [generate_of(asked, card)],
        prompt_param="prompt",
    )


@router.post(STREAM_PATH)
async def worker_generate_stream(request: Request) -> Response:
    """Stream an answer; an error is the stream's last object."""
    asked = await read(request, GenerationRequest)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        services = services_of(request)
        body, tick_s = _told_on(asked, card), services.settings.keepalive_s
        frames = relay.frames(services.peers, card.name, body, tick_s)
        return FramedResponse(frames, media_type=None)
    generation = await _generation(request, asked, card)
    frames = stream_frames(generation, record_of(request))
    return FramedResponse(frames, media_type=None, headers=generation.headers)


@router.post("/worker_generate")
async def worker_generate(request: Request) -> Response:
    """Answer in one object."""
    asked = await read(request, GenerationRequest)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        return await _elsewhere(request, card, asked)
    generation = await _generation(request, asked, card)
    return json_response(await until_disconnect(request.receive, whole(generation)))


@router.post("/worker_get_embeddings")
async def worker_get_embeddings(request: Request) -> Response:
    """Return a vector for each text, as FastChat's workers do: mean states of unit length."""
    asked = await read(request, EmbeddingsRequest)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        return await _elsewhere(request, card, asked)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    work = embed(services_of(request), record_of(request), card, texts)
    embedded = await until_disconnect(request.receive, work)
    encode = as_base64 if asked.encoding_format == "base64" else list[float]
    vectors = [encode(vector) for vector in embedded.vectors]
    return json_response({"embedding": vectors, "token_num": embedded.prompt_tokens})


@router.post("/count_token")
async def count_token(request: Request) -> Response:
    """Count a prompt's tokens, without waiting for a slot."""
    asked = await read(request, CountRequest)
    services = services_of(request)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        return await _elsewhere(request, card, asked)
    call = UtilityCall(uuid.uuid4().hex, card.queue, "", Tokenize(prompt_of(asked.prompt, card)))
    reply = await services.replies.call(call, UTILITY_PATIENCE_S)
    return json_response({"count": len(reply.token_ids), "error_code": 0})


@router.post("/worker_get_conv_template")
async def worker_get_conv_template(request: Request) -> Response:
    """Return the template by which FastChat's OpenAI server quotes a chat to us."""
    asked = await read(request, OptionalModelName)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        return await _elsewhere(request, card, asked)
    return json_response({"conv": conversation(card.name)})


@router.post("/model_details")
async def model_details(request: Request) -> Response:
    """Return a model's context length."""
    asked = await read(request, OptionalModelName)
    card = _pick(request, asked.model)
    if card.backend == FASTCHAT:
        return await _elsewhere(request, card, asked)
    return json_response({"context_length": card.context_length})


@router.post("/worker_get_status")
async def worker_get_status(request: Request) -> Response:
    """Tell of the fleet as of one worker; a real controller may have us registered as such.

    FastChat's workers are not told of: such a controller may know them itself.
    """
    status = {**fleet_status(services_of(request).registry), "model_names": own_names(request)}
    return json_response(status)
