"""POST /api/chat."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.record import record_of
from api.ollama.answers import answer, as_message, loaded
from api.ollama.as_chat import blamed, chat_body
from api.ollama.left_out import read_request
from api.ollama.names import pick_tagged
from api.ollama.schema import OllamaChatRequest
from api.openai.chat.as_chat import generation_of, plan_of
from api.openai.image_sources import images_of_chat

router = Router()


@router.endpoint("/api/chat", OllamaChatRequest)
async def chat(request: Request) -> Response:
    """Answer a chat; without messages, report that the model is loaded."""
    services = services_of(request)
    asked = await read_request(request, OllamaChatRequest)
    card = pick_tagged(request, services, asked.model)
    if not asked.messages:
        return loaded(asked.model, as_message)
    gathered = partial(images_of_chat, request, card)
    plan = await plan_of(chat_body(asked), card, blamed, record_of(request).warnings, gathered)
    generation = await generation_of(request, card, plan)
    return await answer(
        request,
        generation,
        plan.reading,
        model=asked.model,
        stream=asked.stream,
        members=as_message,
    )
