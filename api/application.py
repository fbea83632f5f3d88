"""The application that `uvicorn api:app` serves."""

from __future__ import annotations

import gc
import logging
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import api.admin
import api.anthropic
import api.fastchat
import api.ollama
import api.openai
import api.web
import penstock
from api.access.orphaned_usage import account_forever
from api.endpoint import install
from api.error_bodies import broken, refused, shaped
from api.http.background import at_work
from api.http.body_reading import UnfinishedBodies
from api.http.connection_limits import bound_connections
from api.http.disconnect import CLIENT_GONE, ClientGone
from api.http.draining import Drain, DrainGate
from api.http.errors import CLIENT_CLOSED_REQUEST
from api.http.middleware import RequestContext
from api.http.record import record_of
from api.http.start_limiter import Turnstile
from api.lifespan import running
from api.openai.batches.driver import drive_forever
from api.openai.batches.storage import objects_of
from api.openai.responses.store import sweep_forever
from penstock import settings as penstock_settings
from penstock.aliases import Aliases
from penstock.errors import BadSettings, InvalidParameter, PenstockError
from penstock.observability.logs import configure_logging
from penstock.observability.telemetry import Telemetry
from penstock.observability.tracing import Tracing
from penstock.transport.store.connection import as_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.settings import Settings


logger = logging.getLogger("penstock.api")

EXPOSED_HEADERS: Final = (
    "x-request-id",
    "x-penstock-jobs",
    "x-penstock-model",
    "retry-after",
    *(
        f"x-ratelimit-{what}-{unit}"
        for what in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens")
    ),
)
"""What pages of `settings.cors_origins` may read of an answer."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; it connects to nothing before its lifespan starts.

    :raises BadSettings: `settings` are the environment's, and a value is not usable; or the aliases
        file is not; or the storage of files lacks its library.
    """
    chosen = settings or penstock_settings.load()
    objects_of(chosen)
    aliases = Aliases(chosen.aliases_file)
    telemetry = Telemetry()
    configure_logging(chosen)
    tracing = Tracing.of(chosen, "penstock-api")  # sends what is left when the process ends
    drain = Drain(chosen.drain_notice_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with running(chosen, telemetry, aliases) as services:
            app.state.services = services
            # What the process keeps for good is not looked through again: a collection of all of it
            # holds up every stream for a tenth of a second.
            gc.collect()
            gc.freeze()
            async with at_work(
                sweep_forever(services), drive_forever(app, services), account_forever(services)
            ):
                with drain.watching():
                    yield

    app = FastAPI(
        title="Penstock",
        version=penstock.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages load their scripts from another host
        redoc_url=None,
    )
    app.state.drain = drain
    app.state.bodies = UnfinishedBodies(chosen.max_unfinished_bytes)
    app.add_middleware(DrainGate, drain=drain, refuse=shaped)
    app.add_middleware(RequestContext, telemetry=telemetry, broken=broken, tracing=tracing)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(Turnstile)
    app.add_exception_handler(PenstockError, _penstock_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_query)
    for kind in (RedisError, ConnectionError, TimeoutError, RuntimeError):
        app.add_exception_handler(kind, _unexpected)
    for gone in (ClientGone, ClientDisconnect):
        app.add_exception_handler(gone, _client_gone)
    protocols = (api.openai, api.anthropic, api.ollama, api.admin, api.fastchat, api.web)
    install(app, [protocol.router for protocol in protocols])
    bound_connections()
    return app


async def _penstock_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)  # noqa: S101  Starlette's handlers take any exception
    return shaped(request, error)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer an exception that a handler did not catch: Redis is away, or an internal error.

    :raises Exception: the error again, for the log and `api.error_bodies.broken`.
    """
    unavailable = as_unavailable(error)
    if unavailable is None:
        raise error
    logger.warning("request %s: %s", record_of(request).request_id, unavailable)
    return shaped(request, unavailable)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  Starlette's handlers take any exception
    return refused(request, error)


async def _bad_query(request: Request, error: Exception) -> Response:
    """Answer for what FastAPI itself reads, the query's parameters."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  as above
    fault = error.errors()[0]
    param = str(fault["loc"][-1])
    return shaped(request, InvalidParameter(f"{param}: {fault['msg']}", param=param))


async def _client_gone(request: Request, _error: Exception) -> Response:
    """Return a status for the log; the client has gone."""
    record_of(request).error_code = CLIENT_GONE
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _from_environment() -> FastAPI:
    try:
        return create_app()
    except BadSettings as error:
        sys.exit(f"penstock: {error}")


app = _from_environment()
