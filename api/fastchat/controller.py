"""FastChat's controller, backed by the registry: who serves what is always known, never asked."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.fastchat.peers import Status as PeerStatus
from api.fastchat.route import FastChatRoute, VouchedRoute, read
from api.fastchat.schema import Body, ModelName
from api.http.errors import json_response
from api.http.middleware import record_of
from api.jobs.catalogue import catalogue
from api.jobs.generation import CAPABILITY, FASTCHAT
from api.jobs.routing import look_up
from penstock.errors import NoWorker, StoreUnavailable, UnknownModel

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


def model_names(request: Request) -> list[str]:
    """Return the names that this caller may ask for, FastChat's workers' among them, sorted."""
    return list(catalogue(services_of(request), record_of(request).caller))


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
    """List the served models that answer to text alone: FastChat's web UI offers these.

    Embedding models and those that score pairs are in `/list_models` only.
    """
    services = services_of(request)
    theirs = services.peers.names(multimodal=False)
    found = catalogue(services, record_of(request).caller, theirs)
    names = [name for name, card in found.items() if CAPABILITY in card.capabilities]
    return json_response({"models": names})


@router.post("/list_multimodal_models")
async def list_multimodal_models(request: Request) -> Response:
    """List the models that take images: FastChat's workers' alone, ours take none."""
    services = services_of(request)
    theirs = services.peers.names(multimodal=True)
    found = catalogue(services, record_of(request).caller, theirs)
    names = [name for name, card in found.items() if card.backend == FASTCHAT]
    return json_response({"models": names})


@router.post("/get_worker_address")
async def get_worker_address(request: Request) -> Response:
    """Return our own address for a model that is served, an empty one for any other.

    FastChat's clients know no other way to be told, of Redis being away neither.
    """
    asked = await read(request, ModelName)
    try:
        look_up(services_of(request), asked.model)
    except (UnknownModel, NoWorker, StoreUnavailable):
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
