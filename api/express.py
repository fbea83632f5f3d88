"""The endpoints that models are asked through, past FastAPI's routing.

FastAPI looks for a route in every router of every router and solves its dependencies anew for each
request: a third of what a request costs this process before its job is on the queue. These endpoints
take nothing but the request, and have one dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match, Route

from api.access.dependencies import authenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

    Endpoint = Callable[[Request], Awaitable[Response]]


class Express(Route):
    """A POST that callers with a key may send. It is described by the route that FastAPI has of it."""

    def __init__(self, path: str, endpoint: Endpoint) -> None:
        async def answer(request: Request) -> Response:
            await authenticated(request)
            return await endpoint(request)

        super().__init__(path, answer, methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as ever, and name the route, whose path goes into metrics and traces."""
        match, child_scope = super().matches(scope)
        if match is not Match.NONE:
            child_scope["route"] = self
        return match, child_scope


def expedite(app: FastAPI, endpoints: Mapping[str, Endpoint]) -> None:
    """Let an application look for these first, by their paths."""
    app.router.routes[:0] = [Express(path, endpoint) for path, endpoint in endpoints.items()]
