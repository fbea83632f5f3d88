"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.record import record_of
from api.jobs.catalogue import catalogue
from api.jobs.routing import look_up

if TYPE_CHECKING:
    from penstock.contract.worker import ModelCard, ModelStatus

router = Router()


@router.endpoint("/v1/models", method="GET")
async def list_models(request: Request) -> Response:
    """List what live workers serve, each name once, with its aliases.

    :raises StoreUnavailable: Redis has been away for too long to know.
    """
    services = services_of(request)
    services.registry.known()  # raises while Redis is away: an empty list would be a lie
    names = catalogue(services, record_of(request).caller)
    listed = [
        model_object(name, card, services.registry.status_of(card)) for name, card in names.items()
    ]
    return json_response({"object": "list", "data": listed})


@router.endpoint("/v1/models/{name:path}", method="GET")
async def retrieve_model(request: Request, name: str) -> Response:
    """Show one model; a name may hold slashes.

    :raises UnknownModel, NotPermitted, NoWorker, StoreUnavailable: as a completion would.
    """
    services = services_of(request)
    card = look_up(services, name)
    record_of(request).caller.check_model(name, card)
    return json_response(model_object(name, card, services.registry.status_of(card)))


def model_object(name: str, card: ModelCard, state: ModelStatus) -> dict[str, Any]:
    """Return OpenAI's `model`, with vLLM's extensions, what it is for, and if it is in memory."""
    embedding = card.embedding
    return {
        "id": name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "penstock",
        "root": card.adapter.path if card.adapter else card.name,
        "parent": card.parent or None,
        "max_model_len": card.context_length,
        "capabilities": list(card.capabilities),
        "state": state,
        **({"embedding_dimensions": embedding.dimensions} if embedding else {}),
    }
