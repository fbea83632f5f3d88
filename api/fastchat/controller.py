"""FastChat's controller, backed by the registry: who serves what is always known, never asked."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.dependencies import services_of
from api.errors import json_response
from api.fastchat.peers import Status as PeerStatus
from api.fastchat.route import FastChatRoute, VouchedRoute, read
from api.fastchat.schema import Body, ModelName
from api.middleware import record_of
from penstock.errors import NoWorker, UnknownModel

router = APIRouter(route_class=FastChatRoute)
vouched_router = APIRouter(route_class=VouchedRoute)
"""Where the token stands for a key: FastChat's workers send none."""


class HeartBeat(Body):
    """What a FastChat worker says every 45 seconds."""

    worker_name: str
    queue_length: int


class Status(Body):
    """What a FastChat worker says of itself, if it does, when it registers."""

    model_names: tuple[str, ...]
    speed: float = 1.0
    queue_length: int = 0


class Registration(Body):
    """`/register_worker`. Whoever registers here is looked after, heartbeats or not."""

    worker_name: str
    worker_status: Status | None = None
    multimodal: bool = False


def own_names(request: Request) -> list[str]:
    """Return the names and aliases of what our live workers serve to this caller, sorted."""
    may_use = record_of(request).caller.may_use
    return sorted(
        {
            name
            for card in services_of(request).registry.models()
            for name in (card.name, *card.aliases)
            if may_use(name, card.name, card.queue)
        }
    )


def model_names(request: Request, *, multimodal: bool | None = None) -> list[str]:
    """Return `own_names` and those of FastChat's workers, sorted; ours take no images."""
    may_use = record_of(request).caller.may_use
    peers = services_of(request).peers.names(multimodal=multimodal)
    ours = [] if multimodal else own_names(request)
    return sorted({*ours, *(name for name in peers if may_use(name))})


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
async def list_models(request: Request) -> Response:
    """List the served models."""
    return json_response({"models": model_names(request)})


@router.post("/list_language_models")
async def list_language_models(request: Request) -> Response:
    """List the served models that take text alone."""
    return json_response({"models": model_names(request, multimodal=False)})


@router.post("/list_multimodal_models")
async def list_multimodal_models(request: Request) -> Response:
    """List the models that take images: none of ours."""
    return json_response({"models": model_names(request, multimodal=True)})


@router.post("/get_worker_address")
async def get_worker_address(request: Request) -> Response:
    """Return our own address for a model of the fleet, an empty one for any other."""
    asked = await read(request, ModelName)
    services = services_of(request)
    try:
        services.registry.resolve(asked.model)
    except (UnknownModel, NoWorker):
        if services.peers.card(asked.model) is None:
            return json_response({"address": ""})
    return json_response({"address": own_address(request)})


@router.post("/register_worker")
async def register_worker(request: Request) -> Response:
    """Let a FastChat worker join, from where the operator allows it alone.

    A registration makes us call a URL that a stranger names. FastChat logs failures and answers
    null; here a worker that cannot join gets to know.

    :raises NotPermitted: it may not.
    :raises NoWorker: it does not answer.
    """
    return await _register(request, vouched=False)


@vouched_router.post("/r/{token}/register_worker")  # noqa: FAST003  the route looks at it
async def register_worker_by_token(request: Request) -> Response:
    """Let a FastChat worker join whose controller address has our token in it.

    :raises NoWorker: it does not answer.
    """
    return await _register(request, vouched=True)


async def _register(request: Request, *, vouched: bool) -> Response:
    asked = await read(request, Registration)
    told = asked.worker_status
    status = None if told is None else PeerStatus(told.model_names, told.speed, told.queue_length)
    peers = services_of(request).peers
    await peers.register(asked.worker_name, status, multimodal=asked.multimodal, vouched=vouched)
    return json_response(None)


@router.post("/receive_heart_beat")
async def receive_heart_beat(request: Request) -> Response:
    """Take a FastChat worker's heartbeat; a worker that is not known here registers anew."""
    return await _beat(request, vouched=False)


@vouched_router.post("/r/{token}/receive_heart_beat")  # noqa: FAST003  the route looks at it
async def receive_heart_beat_by_token(request: Request) -> Response:
    """Take the heartbeat of a worker that came by the token."""
    return await _beat(request, vouched=True)


async def _beat(request: Request, *, vouched: bool) -> Response:
    asked = await read(request, HeartBeat)
    peers = services_of(request).peers
    known = await peers.beat(asked.worker_name, asked.queue_length, vouched=vouched)
    return json_response({"exist": known})
