"""FastChat's worker: the address that the controller hands out, for every model of the fleet."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.fastchat.call import Call, call_of
from api.fastchat.envelope import conversation
from api.fastchat.frames import error_frame, stream_frames, whole
from api.fastchat.membership import fleet_status
from api.fastchat.route import FastChatRoute
from api.fastchat.schema import (
    CountRequest,
    EmbeddingsRequest,
    GenerationRequest,
    OptionalModelName,
    prompt_of,
    works_of,
)
from api.fastchat.wire import STREAM_PATH
from api.http.errors import json_response
from api.http.record import record_of
from api.http.streaming import FramedResponse
from api.jobs.blame import Blame
from api.jobs.embedding import as_base64, embed
from api.jobs.generation import Generation
from api.openai.image_sources import images_at
from penstock.contract.tokenizer_calls import Tokenize, TokenizerCall
from penstock.errors import ContextOverflow, InvalidParameter

router = Router(route_class=FastChatRoute)

UTILITY_PATIENCE_S = 30.0


async def _generation(call: Call[GenerationRequest]) -> Generation:
    urls = [(url, f"images[{position}]") for position, url in enumerate(call.asked.images)]
    images = await images_at(call.request, call.card, urls)
    works = works_of(call.asked, call.card, images)
    return await Generation.of(
        call.services,
        record_of(call.request),
        call.card,
        works,
        blame=Blame("prompt"),
        choices=len(works),
        images=images.data,
    )


@router.endpoint(STREAM_PATH)
async def worker_generate_stream(request: Request) -> Response:
    """Stream an answer; an error is the stream's last object."""
    call = await call_of(request, GenerationRequest)
    if call.is_elsewhere:
        return FramedResponse(call.relayed(), last=error_frame, media_type=None)
    if call.asked.best_of > 1:
        raise InvalidParameter("best_of: more than 1 cannot be streamed", param="best_of")
    generation = await _generation(call)
    return FramedResponse(
        stream_frames(generation), last=error_frame, media_type=None, headers=generation.headers
    )


@router.endpoint("/worker_generate")
async def worker_generate(request: Request) -> Response:
    """Answer in one object."""
    return await (await call_of(request, GenerationRequest)).answered(_generated)


async def _generated(call: Call[GenerationRequest]) -> dict[str, Any]:
    generation = await _generation(call)
    return await whole(generation, with_logprobs=call.asked.logprobs is not None)


@router.endpoint("/worker_get_embeddings")
async def worker_get_embeddings(request: Request) -> Response:
    """Return a vector for each text, as FastChat's workers do: mean states of unit length."""
    return await (await call_of(request, EmbeddingsRequest)).answered(_embedded)


async def _embedded(call: Call[EmbeddingsRequest]) -> dict[str, Any]:
    asked = call.asked
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    embedded = await embed(call.services, record_of(call.request), call.card, texts)
    encode = as_base64 if asked.encoding_format == "base64" else list[float]
    vectors = [encode(vector) for vector in embedded.vectors]
    return {"embedding": vectors, "token_num": embedded.prompt_tokens}


@router.endpoint("/count_token")
async def count_token(request: Request) -> Response:
    """Count a prompt's tokens, without waiting for a slot."""
    return await (await call_of(request, CountRequest)).answered(_counted)


async def _counted(call: Call[CountRequest]) -> dict[str, Any]:
    work = Tokenize(prompt_of(call.asked.prompt, call.card))
    counting = TokenizerCall(uuid.uuid4().hex, call.card.queue, "", work)
    try:
        reply = await call.services.replies.call(counting, UTILITY_PATIENCE_S)
    except ContextOverflow:
        return {"count": _least_tokens(call), "error_code": 0}
    return {"count": len(reply.token_ids), "error_code": 0}


def _least_tokens(call: Call[CountRequest]) -> int:
    """Return the fewest tokens of a text that is too long to be tokenised: more than the context.

    FastChat's OpenAI server reads a count from every answer, and compares it with the context.
    """
    longest = max(1, call.card.longest_token_chars)
    return max(-(-len(call.asked.prompt) // longest), call.card.context_length + 1)


@router.endpoint("/worker_get_conv_template")
async def worker_get_conv_template(request: Request) -> Response:
    """Return the template by which FastChat's OpenAI server quotes a chat to us."""
    return await (await call_of(request, OptionalModelName)).answered(_template)


async def _template(call: Call[OptionalModelName]) -> dict[str, Any]:
    return {"conv": conversation(call.card.name)}


@router.endpoint("/model_details")
async def model_details(request: Request) -> Response:
    """Return a model's context length."""
    return await (await call_of(request, OptionalModelName)).answered(_details)


async def _details(call: Call[OptionalModelName]) -> dict[str, Any]:
    return {"context_length": call.card.context_length}


@router.endpoint("/worker_get_status")
async def worker_get_status(request: Request) -> Response:
    """Report the fleet as one worker; a real controller may have us registered as such.

    FastChat workers are not included: such a controller may know them itself.
    """
    status = fleet_status(services_of(request), record_of(request).caller)
    return json_response(status)
