"""How an endpoint is declared: its route, its place in the OpenAPI document, its shortcut.

    router = Router()

    @router.endpoint("/v1/chat/completions", ChatRequest, direct=True)
    async def chat_completions(request: Request) -> Response:

Handlers read their bodies themselves (one limit, one shape of errors), so FastAPI does not know
the bodies' schemas; the OpenAPI document takes them from here.

FastAPI looks for a route in every router of every router and resolves its dependencies again for
each request: a third of what a request costs this process before its job is on the queue.
`direct` endpoints are matched before all that (docs/adr/0006). They take nothing but the request,
and their one dependency is the caller's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import Match, Route

from api.access.dependencies import authenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from fastapi import FastAPI
    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

TEMPLATE: Final = "#/components/schemas/{model}"


class _Handler(Protocol):
    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Response]: ...


Handler = TypeVar("Handler", bound=_Handler)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as it was declared."""

    path: str
    handler: Callable[..., Awaitable[Response]]
    body: type[BaseModel] | None
    direct: bool


class Router(APIRouter):
    """A router that knows its endpoints, and those of the routers that it includes."""

    def __init__(self, **options: Any) -> None:
        """Take the options of `APIRouter`."""
        super().__init__(**options)
        self.endpoints: list[Endpoint] = []

    def endpoint(
        self,
        path: str,
        body: type[BaseModel] | None = None,
        *,
        method: str = "POST",
        direct: bool = False,
        documented: bool = True,
        openapi: Mapping[str, Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare a handler. `openapi` describes a body that no schema does.

        A `direct` handler checks the caller's key in place of its router's dependencies, so the
        router must depend on `authenticated` alone.
        """
        described = dict(openapi or {}) | (_described(body) if body else {})

        def declare(handler: Handler) -> Handler:
            self.add_api_route(
                path,
                handler,
                methods=[method],
                include_in_schema=documented,
                openapi_extra=described or None,
            )
            self.endpoints.append(Endpoint(path, handler, body, direct))
            return handler

        return declare

    def include_router(self, router: APIRouter, *args: Any, **options: Any) -> None:
        """Include another router, whose endpoints have been declared."""
        super().include_router(router, *args, **options)
        if isinstance(router, Router):
            self.endpoints += router.endpoints


def _described(body: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": TEMPLATE.format(model=body.__name__)}
    content = {"application/json": {"schema": reference}}
    return {"requestBody": {"required": True, "content": content}}


class DirectRoute(Route):
    """The shortcut to a `direct` endpoint, which FastAPI's own route of it documents."""

    def __init__(self, endpoint: Endpoint) -> None:
        async def answer(request: Request) -> Response:
            await authenticated(request)
            return await endpoint.handler(request)

        super().__init__(endpoint.path, answer, methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as usual, and name the route, whose path goes into metrics and traces."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope


def install(app: FastAPI, routers: Iterable[Router]) -> None:
    """Add all routers' endpoints to an application: routes, shortcuts, document."""
    endpoints: list[Endpoint] = []
    for router in routers:
        app.include_router(router)
        endpoints += router.endpoints
    app.router.routes[:0] = [DirectRoute(endpoint) for endpoint in endpoints if endpoint.direct]
    app.openapi = _document_of(app, [endpoint.body for endpoint in endpoints if endpoint.body])


def _document_of(app: FastAPI, bodies: list[type[BaseModel]]) -> Callable[[], dict[str, Any]]:
    """Return the function that makes the application's OpenAPI document, once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, schemas = models_json_schema(
                [(body, "validation") for body in bodies], ref_template=TEMPLATE
            )
            made.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    return document
