"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.dependencies import pick, services_of
from api.disconnect import until_disconnect
from api.embedding import as_base64, embed
from api.errors import json_response
from api.json_body import read_json
from api.middleware import record_of
from api.openai.documentation import documented
from api.openai.schema import Fields, Prompts
from penstock.errors import InvalidParameter

router = APIRouter()

MAX_INPUTS = 2048


class EmbeddingRequest(Fields):
    """Body of POST /v1/embeddings."""

    model: str = Field(min_length=1, max_length=500)
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None


@router.post("/v1/embeddings", openapi_extra=documented(EmbeddingRequest))
async def embeddings(request: Request) -> Response:
    """Return a vector for each text: the mean of the model's last hidden states."""
    services = services_of(request)
    asked = await read_json(request, EmbeddingRequest, services.settings.max_body_bytes)
    if len(asked.input) > MAX_INPUTS:
        raise InvalidParameter(f"input: {len(asked.input)} are over {MAX_INPUTS}", param="input")
    if "" in asked.input:
        raise InvalidParameter("input: a text must not be empty", param="input")
    card = pick(request, asked.model)
    work = embed(services, record_of(request), card, asked.input, dimensions=asked.dimensions)
    embedded = await until_disconnect(request.receive, work)
    encode = as_base64 if asked.encoding_format == "base64" else list[float]
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens}
    return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage})
