"""POST /v1/rerank (as Cohere's and Jina's) and /v1/score (as vLLM's)."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.disconnect import until_disconnect
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.record import record_of
from api.jobs.routing import pick
from api.jobs.scoring import score
from api.openai.schema import INT64, Fields, Truncate, Whole
from penstock.contract.job import TO_CONTEXT, WHOLE
from penstock.errors import InvalidParameter

router = Router()

MAX_DOCUMENTS = 2048


class Document(Fields):
    """A text to be ranked."""

    text: str = Field(min_length=1)


Text = Annotated[str, Field(min_length=1)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[
    list[Text], BeforeValidator(_listed), Field(min_length=1, max_length=MAX_DOCUMENTS)
]


class RerankRequest(Fields):
    """Body of POST /v1/rerank."""

    model: str = Field(min_length=1, max_length=500)
    query: Text
    documents: list[Text | Document] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: Whole | None = Field(default=None, ge=1, lt=INT64)
    return_documents: bool | None = None
    max_tokens_per_doc: Whole | None = Field(default=None, ge=1, lt=INT64)
    truncation: bool | None = None
    truncate_prompt_tokens: Truncate | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [
            document if isinstance(document, str) else document.text for document in self.documents
        ]

    @property
    def truncate(self) -> int:
        """Tokens of a pair to keep; by default a long one is cut, unless the client refuses that."""
        if self.truncate_prompt_tokens is not None:
            return self.truncate_prompt_tokens
        return WHOLE if self.truncation is False else TO_CONTEXT


class ScoreRequest(Fields):
    """Body of POST /v1/score."""

    model: str = Field(min_length=1, max_length=500)
    first: Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    second: Texts = Field(validation_alias=AliasChoices("text_2", "documents", "items", "data_2"))
    truncate_prompt_tokens: Truncate | None = None


@router.endpoint("/rerank", documented=False)
@router.endpoint("/v2/rerank", documented=False)
@router.endpoint("/v1/rerank", RerankRequest)
async def rerank(request: Request) -> Response:
    """Return documents in the order in which they answer a query, the best first."""
    services = services_of(request)
    asked = await read_json(request, RerankRequest, services.settings.max_body_bytes)
    if asked.max_tokens_per_doc is not None:
        raise InvalidParameter(
            "max_tokens_per_doc: truncate_prompt_tokens bounds query and document together",
            param="max_tokens_per_doc",
        )
    card, texts = pick(request, asked.model), asked.texts
    work = score(
        services,
        record_of(request),
        card,
        [(asked.query, text) for text in texts],
        truncate=asked.truncate,
        prompt_param="documents",
    )
    found = await until_disconnect(request.receive, work)
    order = sorted(range(len(texts)), key=lambda index: -found.scores[index])
    results = [
        {
            "index": index,
            "relevance_score": found.scores[index],
            **({"document": {"text": texts[index]}} if asked.return_documents else {}),
        }
        for index in order[: asked.top_n]
    ]
    return json_response(
        {
            "id": f"rerank-{uuid.uuid4().hex}",
            "object": "rerank",
            "model": asked.model,
            "results": results,
            "usage": _usage(found.prompt_tokens),
            "meta": {"tokens": {"input_tokens": found.prompt_tokens}},
        }
    )


@router.endpoint("/score", documented=False)
@router.endpoint("/v1/score", ScoreRequest)
async def scores(request: Request) -> Response:
    """Return how well the texts of each pair go together."""
    services = services_of(request)
    asked = await read_json(request, ScoreRequest, services.settings.max_body_bytes)
    firsts, seconds = asked.first, asked.second
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise InvalidParameter(
            f"text_2: {len(seconds)} texts do not pair with {len(firsts)}", param="text_2"
        )
    work = score(
        services,
        record_of(request),
        pick(request, asked.model),
        list(zip(firsts, seconds, strict=True)),
        truncate=asked.truncate_prompt_tokens or WHOLE,
        prompt_param="text_2",
    )
    results = await until_disconnect(request.receive, work)
    data = [
        {"index": index, "object": "score", "score": value}
        for index, value in enumerate(results.scores)
    ]
    return json_response(
        {
            "id": f"score-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": asked.model,
            "data": data,
            "usage": _usage(results.prompt_tokens),
        }
    )


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
