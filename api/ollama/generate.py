"""POST /api/generate."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.record import record_of
from api.ollama.answers import answer, as_response, loaded
from api.ollama.as_chat import blamed, chat_body_of_prompt, completion_body
from api.ollama.left_out import read_request
from api.ollama.names import pick_tagged
from api.ollama.schema import GenerateRequest
from api.openai.chat.as_chat import completion_of, generation_of, plan_of
from api.openai.chat.tools import Reading
from api.openai.image_sources import images_of_chat

router = Router()


@router.endpoint("/api/generate", GenerateRequest)
async def generate(request: Request) -> Response:
    """Continue a prompt: through the chat template, raw, or before a suffix."""
    services = services_of(request)
    asked = await read_request(request, GenerateRequest)
    card = pick_tagged(request, services, asked.model)
    if not asked.prompt and not asked.suffix:
        return loaded(asked.model, as_response)
    if asked.raw or asked.suffix or not card.has_chat_template:
        generation = await completion_of(request, card, completion_body(asked), blamed)
        reading = Reading()
    else:
        plan = await plan_of(
            chat_body_of_prompt(asked),
            card,
            blamed,
            record_of(request).warnings,
            partial(images_of_chat, request, card),
        )
        generation, reading = await generation_of(request, card, plan), plan.reading
    return await answer(
        request,
        generation,
        reading,
        model=asked.model,
        stream=asked.stream,
        members=as_response,
    )
