"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.dependencies import services_of
from api.errors import json_response
from api.middleware import record_of
from penstock.errors import NoWorker, UnknownModel

if TYPE_CHECKING:
    from api.services import Services
    from penstock.contract.worker import ModelCard

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List what live workers serve, each name once, with its aliases.

    :raises StoreUnavailable: Redis has been away for too long to tell.
    """
    services = services_of(request)
    registry = services.registry
    registry.known()  # raises while Redis is away: an empty list would be a lie
    caller = record_of(request).caller
    listed: dict[str, dict[str, Any]] = {}
    for card in registry.models():
        for name in (card.name, *card.aliases):
            if caller.may_use(name, card.name, card.queue):
                listed.setdefault(name, model_object(name, card))
    for name in services.aliases.names():
        card = _stands_for(services, name)
        if card is not None and caller.may_use(name, card.name):
            listed.setdefault(name, model_object(name, card))
    for name in services.peers.names():
        card = services.peers.card(name)
        if card is not None and caller.may_use(name):
            listed.setdefault(name, model_object(name, card))
    return json_response({"object": "list", "data": [listed[name] for name in sorted(listed)]})


@router.get("/v1/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> Response:
    """Show one model; a name may hold slashes.

    :raises UnknownModel, NotPermitted, NoWorker, StoreUnavailable: as a completion would.
    """
    services = services_of(request)
    card = _stands_for(services, name)
    if card is None:
        try:
            card = services.registry.resolve(name)[0].card
        except (UnknownModel, NoWorker):
            card = services.peers.card(name)
            if card is None:
                raise
    record_of(request).caller.check_model(name, card)
    return json_response(model_object(name, card))


def _stands_for(services: Services, name: str) -> ModelCard | None:
    """Return the card of the heaviest model of an alias that is served, if any."""
    alias = services.aliases.get(name)
    weights = alias.weights if alias else {}
    for model in (
        *sorted(weights, key=lambda one: -weights[one]),
        *(alias.fallback if alias else ()),
    ):
        try:
            return services.registry.resolve(model)[0].card
        except (UnknownModel, NoWorker):
            continue
    return None


def model_object(name: str, card: ModelCard) -> dict[str, Any]:
    """Return OpenAI's `model`, with vLLM's extensions and what the model is for."""
    embedding = card.embedding
    return {
        "id": name,
        "object": "model",
        "created": card.created_s,
        "owned_by": "penstock",
        "root": card.name,
        "parent": None,
        "max_model_len": card.context_length,
        "capabilities": list(card.capabilities),
        **({"embedding_dimensions": embedding.dimensions} if embedding else {}),
    }
