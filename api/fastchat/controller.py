"""FastChat's controller, backed by the registry: who serves what is always known, never asked."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.dependencies import services_of
from api.errors import json_response
from api.fastchat.route import FastChatRoute, read
from api.fastchat.schema import Body, ModelName
from penstock.errors import NotPermitted, NoWorker, UnknownModel

router = APIRouter(route_class=FastChatRoute)


class HeartBeat(Body):
    """What a FastChat worker says every 45 seconds."""

    worker_name: str
    queue_length: int


def model_names(request: Request) -> list[str]:
    """Return the names and aliases of what live workers serve, sorted."""
    cards = services_of(request).registry.models()
    return sorted({name for card in cards for name in (card.name, *card.aliases)})


def own_address(request: Request) -> str:
    """Return the base URL under which the caller reaches us."""
    public = services_of(request).settings.public_url
    return (str(public) if public else str(request.base_url)).rstrip("/")


@router.get("/test_connection")
async def test_connection() -> Response:
    """Answer that the controller is there."""
    return json_response("success")


@router.post("/refresh_all_workers")
async def refresh_all_workers() -> Response:
    """Do nothing: the registry is fresh by itself."""
    return json_response(None)


@router.post("/list_models")
@router.post("/list_language_models")
async def list_models(request: Request) -> Response:
    """List the served models."""
    return json_response({"models": model_names(request)})


@router.post("/list_multimodal_models")
async def list_multimodal_models() -> Response:
    """List the models that take images: none."""
    return json_response({"models": []})


@router.post("/get_worker_address")
async def get_worker_address(request: Request) -> Response:
    """Return our own address for a model of the fleet, an empty one for any other."""
    asked = await read(request, ModelName)
    try:
        services_of(request).registry.resolve(asked.model)
    except (UnknownModel, NoWorker):
        return json_response({"address": ""})
    return json_response({"address": own_address(request)})


@router.post("/register_worker")
async def register_worker() -> Response:
    """Refuse: a registration makes us call a URL that a stranger names.

    :raises NotPermitted: always.
    """
    raise NotPermitted("FastChat workers cannot register here: Penstock's own join through Redis")


@router.post("/receive_heart_beat")
async def receive_heart_beat(request: Request) -> Response:
    """Tell a FastChat worker that it is not registered."""
    await read(request, HeartBeat)
    return json_response({"exist": False})
