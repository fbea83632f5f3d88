"""FastChat's controller, backed by the registry: it never has to ask workers what they serve."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.fastchat.peers import peers_of
from api.fastchat.registration import LONGEST_NAME, MOST_LOAD, MOST_MODELS
from api.fastchat.registration import Status as PeerStatus
from api.fastchat.route import FastChatRoute, VouchedRoute, read
from api.fastchat.schema import Body, ModelName
from api.http.errors import json_response
from api.http.record import record_of
from api.jobs.catalogue import catalogue
from api.jobs.generation import CAPABILITY
from api.jobs.routing import look_up
from penstock.contract.worker import IMAGES
from penstock.errors import NoWorker, StoreUnavailable, UnknownModel

router = Router(route_class=FastChatRoute)
vouched_router = Router(route_class=VouchedRoute)
"""The token in the path replaces a key: FastChat's workers send none."""


WorkerName = Annotated[str, Field(max_length=500)]
ModelNameOfWorker = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Load = Annotated[int, Field(ge=0, le=MOST_LOAD)]


class HeartBeat(Body):
    """What a FastChat worker sends every 45 seconds."""

    worker_name: WorkerName
    queue_length: Load


class Status(Body):
    """What a FastChat worker may report about itself when it registers."""

    model_names: Annotated[tuple[ModelNameOfWorker, ...], Field(max_length=MOST_MODELS)]
    speed: float = Field(default=1.0, ge=0, le=MOST_LOAD)
    queue_length: Load = 0


class Registration(Body):
    """Body of `/register_worker`. Registered workers are probed, with heartbeats or without."""

    worker_name: WorkerName
    worker_status: Status | None = None
    multimodal: bool = False


def model_names(request: Request) -> list[str]:
    """Return the models that this caller may use, including FastChat's workers', sorted."""
    return list(catalogue(services_of(request), record_of(request).caller))


def own_address(request: Request) -> str:
    """Return the base URL under which the caller reaches us."""
    public = services_of(request).settings.public_url
    return (str(public) if public else str(request.base_url)).rstrip("/")


@router.endpoint("/test_connection", method="GET")
async def test_connection() -> Response:
    """Answer that the controller is there."""
    return json_response("success")


@router.endpoint("/refresh_all_workers")
async def refresh_all_workers() -> Response:
    """Do nothing: the registry refreshes itself."""
    return json_response(None)


@router.endpoint("/list_models")
async def list_models(request: Request) -> Response:
    """List the served models."""
    return json_response({"models": model_names(request)})


@router.endpoint("/list_language_models")
async def list_language_models(request: Request) -> Response:
    """List the served models that answer to text alone: FastChat's web UI offers these.

    Embedding models and those that score pairs are in `/list_models` only.
    """
    services = services_of(request)
    theirs = services.peers.names(multimodal=False)
    cards = catalogue(services, record_of(request).caller, theirs)
    names = [name for name, card in cards.items() if CAPABILITY in card.capabilities]
    return json_response({"models": names})


@router.endpoint("/list_multimodal_models")
async def list_multimodal_models(request: Request) -> Response:
    """List the models that take images; ours take text as well and are in both lists."""
    cards = catalogue(services_of(request), record_of(request).caller)
    names = [name for name, card in cards.items() if IMAGES in card.capabilities]
    return json_response({"models": names})


@router.endpoint("/get_worker_address")
async def get_worker_address(request: Request) -> Response:
    """Return our own address for a model that is served, an empty one for any other.

    FastChat's protocol has no error here; an empty address also stands for an unreachable Redis.
    """
    asked = await read(request, ModelName)
    try:
        look_up(services_of(request), asked.model)
    except (UnknownModel, NoWorker, StoreUnavailable):
        return json_response({"address": ""})
    return json_response({"address": own_address(request)})


@router.endpoint("/register_worker")
async def register_worker(request: Request) -> Response:
    """Let a FastChat worker join, from the hosts that the operator allows.

    A registration makes us call a URL that the client chooses. FastChat logs failures and answers
    null; here a worker that cannot join gets an error.

    :raises NotPermitted: it may not.
    :raises NoWorker: it does not answer.
    """
    return await _register(request, vouched=False)


@vouched_router.endpoint("/r/{token}/register_worker")
async def register_worker_by_token(request: Request) -> Response:
    """Let a FastChat worker join whose controller address has our token in it.

    :raises NoWorker: it does not answer.
    """
    return await _register(request, vouched=True)


async def _register(request: Request, *, vouched: bool) -> Response:
    asked = await read(request, Registration)
    given = asked.worker_status
    status = given and PeerStatus(given.model_names, given.speed, given.queue_length)
    peers = peers_of(services_of(request))
    await peers.register(asked.worker_name, status, multimodal=asked.multimodal, vouched=vouched)
    return json_response(None)


@router.endpoint("/receive_heart_beat")
async def receive_heart_beat(request: Request) -> Response:
    """Take a FastChat worker's heartbeat; an unknown worker is asked to register again."""
    return await _beat(request, vouched=False)


@vouched_router.endpoint("/r/{token}/receive_heart_beat")
async def receive_heart_beat_by_token(request: Request) -> Response:
    """Take the heartbeat of a worker that registered by the token."""
    return await _beat(request, vouched=True)


async def _beat(request: Request, *, vouched: bool) -> Response:
    asked = await read(request, HeartBeat)
    peers = peers_of(services_of(request))
    known = await peers.beat(asked.worker_name, asked.queue_length, vouched=vouched)
    return json_response({"exist": known})
