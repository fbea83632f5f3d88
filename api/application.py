"""The application that `uvicorn api:app` serves."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import api.admin
import api.anthropic
import api.fastchat
import api.openai
import api.web
import penstock
from api.chores import at_work
from api.disconnect import CLIENT_GONE, ClientGone
from api.draining import Drain, DrainGate
from api.errors import CLIENT_CLOSED_REQUEST, http_response, openai_response
from api.fastchat.errors import error_object
from api.fastchat.route import error_response
from api.header_limit import bound_heads
from api.lingering import LingeringResponse
from api.middleware import RequestContext, record_of
from api.openai.batch_driver import drive_forever
from api.openai.documentation import openapi_of
from api.openai.responses_shelf import sweep_forever
from api.services import running
from penstock import settings as penstock_settings
from penstock.aliases import Aliases
from penstock.errors import BadSettings, BodyTooLarge, PenstockError
from penstock.logs import configure_logging
from penstock.telemetry import Telemetry
from penstock.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.settings import Settings


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
        file is not.
    """
    chosen = settings or penstock_settings.load()
    aliases = Aliases(chosen.aliases_file)
    telemetry = Telemetry()
    configure_logging(chosen)
    tracing = Tracing.of(chosen, "penstock-api")  # sends what is left when the process ends
    drain = Drain(chosen.drain_notice_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with running(chosen, telemetry, aliases) as services:
            app.state.services = services
            async with at_work(sweep_forever(services), drive_forever(app, services)):
                with drain.watching():
                    yield

    app = FastAPI(
        title="Penstock",
        version=penstock.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.drain = drain
    app.add_middleware(DrainGate, drain=drain, refuse=_refusal)
    app.add_middleware(RequestContext, telemetry=telemetry, tracing=tracing)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_exception_handler(PenstockError, _penstock_error)
    app.add_exception_handler(HTTPException, _http_error)
    for gone in (ClientGone, ClientDisconnect):
        app.add_exception_handler(gone, _client_gone)
    app.include_router(api.openai.router)
    app.include_router(api.anthropic.router)
    app.include_router(api.admin.router)
    app.include_router(api.fastchat.router)
    app.include_router(api.web.router)
    app.openapi = openapi_of(app)
    bound_heads()
    return app


def _refusal(path: str, error: PenstockError) -> Response:
    if path in api.fastchat.PATHS:
        return error_response(path, error_object(error))
    return openai_response(error)


async def _penstock_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)  # noqa: S101  Starlette's handlers take any exception
    record_of(request).error_code = error.code
    answer = openai_response(error)
    return LingeringResponse(answer) if isinstance(error, BodyTooLarge) else answer


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  Starlette's handlers take any exception
    return http_response(error, request)


async def _client_gone(request: Request, _error: Exception) -> Response:
    """Answer nobody; the status is for the log."""
    record_of(request).error_code = CLIENT_GONE
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _from_environment() -> FastAPI:
    try:
        return create_app()
    except BadSettings as error:
        sys.exit(f"penstock: {error}")


app = _from_environment()
