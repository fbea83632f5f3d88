"""POST /api/embed, and /api/embeddings, which is its older form."""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.record import record_of
from api.jobs.embedding import Wish
from api.jobs.embedding import embed as embeddings_of
from api.ollama.answers import NANOSECONDS
from api.ollama.left_out import read_request
from api.ollama.names import pick_tagged
from api.ollama.schema import EmbeddingsRequest, EmbedRequest
from penstock.contract.job import WHOLE
from penstock.errors import InvalidParameter

router = Router()

TO_THE_CONTEXT: Final = -1
"""A `TextPrompt`'s `truncate`: as many tokens as the model reads, which is Ollama's default."""


@router.endpoint("/api/embed", EmbedRequest)
async def embed(request: Request) -> Response:
    """Return a vector for each text."""
    services, began_s = services_of(request), time.monotonic()
    asked = await read_request(request, EmbedRequest)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not all(texts):
        raise InvalidParameter("input: a text must not be empty", param="input")
    card = pick_tagged(request, services, asked.model)
    truncate = WHOLE if asked.truncate is False else TO_THE_CONTEXT
    wish = Wish(dimensions=asked.dimensions, truncate=truncate)
    work = embeddings_of(services, record_of(request), card, texts, wish)
    made = await until_disconnect(request.receive, work)
    return json_response(
        {
            "model": asked.model,
            "embeddings": [list(vector) for vector in made.vectors],
            "total_duration": int((time.monotonic() - began_s) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": made.prompt_tokens,
        }
    )


@router.endpoint("/api/embeddings", EmbeddingsRequest)
async def embeddings(request: Request) -> Response:
    """Return the vector of one text."""
    services = services_of(request)
    asked = await read_request(request, EmbeddingsRequest)
    if not asked.prompt:
        raise InvalidParameter("prompt: a text must not be empty", param="prompt")
    card = pick_tagged(request, services, asked.model)
    wish = Wish(truncate=TO_THE_CONTEXT)
    work = embeddings_of(services, record_of(request), card, [asked.prompt], wish)
    made = await until_disconnect(request.receive, work)
    return json_response({"embedding": list(made.vectors[0])})
