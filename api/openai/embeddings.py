"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.record import record_of
from api.jobs.embedding import Wish, as_base64, embed
from api.jobs.routing import pick
from api.openai.schema import Fields, Prompts, Truncate, Whole
from penstock.contract.job import WHOLE
from penstock.errors import InvalidParameter

router = Router()

MAX_INPUTS = 2048
PROMPTS_OF = {
    "query": ("query", "search_query"),
    "search_query": ("query", "search_query"),
    "document": ("document", "passage", "search_document"),
    "passage": ("passage", "document", "search_document"),
    "search_document": ("document", "passage", "search_document"),
}
"""What other APIs call `input_type`, and the prompts of models that mean it."""


class EmbeddingRequest(Fields):
    """Body of POST /v1/embeddings."""

    model: str = Field(min_length=1, max_length=500)
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = Field(default=None, ge=1)
    user: str | None = None

    truncate_prompt_tokens: Truncate | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    normalize: bool | None = None


@router.endpoint("/v1/embeddings", EmbeddingRequest, direct=True)
async def embeddings(request: Request) -> Response:
    """Return a vector for each text."""
    services = services_of(request)
    asked = await read_json(request, EmbeddingRequest, services.settings.max_body_bytes)
    if len(asked.input) > MAX_INPUTS:
        raise InvalidParameter(f"input: {len(asked.input)} are over {MAX_INPUTS}", param="input")
    if "" in asked.input:
        raise InvalidParameter("input: a text must not be empty", param="input")
    card = pick(request, asked.model)
    prompts = card.embedding.prompts if card.embedding else {}
    wish = Wish(
        dimensions=asked.dimensions,
        truncate=asked.truncate_prompt_tokens or WHOLE,
        prompt_name=_prompt_name(asked, tuple(prompts)),
        normalized=asked.normalize,
    )
    if wish.prompt_name and not all(isinstance(text, str) for text in asked.input):
        raise InvalidParameter("prompt_name: token ids take no prompt", param="prompt_name")
    work = embed(services, record_of(request), card, asked.input, wish)
    embedded = await until_disconnect(request.receive, work)
    encode = as_base64 if asked.encoding_format == "base64" else list[float]
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens}
    return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage})


def _prompt_name(asked: EmbeddingRequest, known: tuple[str, ...]) -> str | None:
    """Return the prompt that a request names, or that its `input_type` stands for here.

    :raises InvalidParameter: an `input_type` of no API.
    """
    if asked.prompt_name is not None or asked.input_type is None:
        return asked.prompt_name
    if asked.input_type in known:
        return asked.input_type
    if asked.input_type not in PROMPTS_OF:
        names = ", ".join(PROMPTS_OF)
        raise InvalidParameter(f"input_type: must be one of {names}", param="input_type")
    return next((name for name in PROMPTS_OF[asked.input_type] if name in known), None)
