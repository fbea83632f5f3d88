"""GET /health, /ready, /version, /metrics; open to all, as probes and scrapers carry no key."""

import asyncio

from fastapi import Request
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.responses import Response

import penstock
from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.services import Services
from penstock.contract.worker import ModelCard
from penstock.errors import StoreUnavailable
from penstock.observability.fleet_metrics import FleetView
from penstock.observability.telemetry import CONTENT_TYPE
from penstock.transport.fleet.overview import Overview
from penstock.transport.jobs.records import QueueDepth

router = Router()

PROBE_TIMEOUT_S = 2.0


@router.endpoint("/health", documented=False, method="HEAD")
@router.endpoint("/health", method="GET")
async def health() -> Response:
    """Report that this process lives; nothing else is checked."""
    return json_response({"status": "ok"})


@router.endpoint("/ready", documented=False, method="HEAD")
@router.endpoint("/ready", method="GET")
async def ready(request: Request) -> Response:
    """Report whether a request could be answered: the home Redis answers, and a worker lives."""
    services = services_of(request)
    if request.app.state.drain.draining:
        return json_response({"status": "unavailable", "reason": "it is shutting down"}, 503)
    if not await _redis_answers(services.redis):
        return json_response({"status": "unavailable", "reason": "Redis does not answer"}, 503)
    models = sorted({card.name for card in services.registry.models()})
    if not models:
        return json_response({"status": "unavailable", "reason": "no worker is live"}, 503)
    return json_response({"status": "ready", "models": models})


@router.endpoint("/version", method="GET")
async def version() -> Response:
    """Name this server and its version."""
    return json_response({"name": "penstock", "version": penstock.__version__})


@router.endpoint("/metrics", method="GET")
async def metrics(request: Request) -> Response:
    """Show Prometheus's metrics; queues are read now."""
    services = services_of(request)
    cards = _known_cards(services)
    stores = services.stores
    depths, (redis_up, *groups_up) = await asyncio.gather(
        _depths(services, [card.queue for card in cards]),
        asyncio.gather(*map(_redis_answers, stores.all())),
    )
    view = FleetView(
        redis_up=redis_up,
        groups_up=dict(zip(stores.groups, groups_up, strict=True)),
        cards=cards,
        workers=services.registry.workers(),
        depths=depths,
    )
    text = await asyncio.to_thread(services.telemetry.render, view)
    return Response(text, headers={"content-type": CONTENT_TYPE})


def _known_cards(services: Services) -> list[ModelCard]:
    """Return the cards of all queues, also of those without a worker: their backlog matters most."""
    try:
        return [served.card for served in services.registry.known()]
    except StoreUnavailable:
        return []


async def _redis_answers(redis: Redis) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await redis.ping()  # pyright: ignore[reportUnknownMemberType] - redis-py
    except (TimeoutError, RedisError, OSError, RuntimeError):
        return False
    return True


async def _depths(services: Services, queues: list[str]) -> dict[str, QueueDepth]:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await Overview(services.stores).depths(queues)
    except (TimeoutError, RedisError, OSError, RuntimeError, StoreUnavailable):
        return {}
