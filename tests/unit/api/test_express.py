"""The shortcut to the endpoints that models are asked through leads where FastAPI would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fastapi.routing import APIRoute

import api.openai
import api.openai.chat.completions
import api.openai.chat.routes
import api.openai.embeddings
from api.access.dependencies import authenticated
from api.application import create_app
from api.express import Express
from penstock.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter


def described(path: str) -> APIRoute:
    """The route that FastAPI has of a path."""
    parts: list[APIRouter] = [api.openai.chat.routes.router, api.openai.chat.completions.router]
    parts.append(api.openai.embeddings.router)
    (route,) = [
        route
        for part in parts
        for route in part.routes
        if isinstance(route, APIRoute) and route.path == path
    ]
    return route


@pytest.mark.parametrize("path", api.openai.EXPEDITED)
def test_an_expedited_endpoint_is_the_one_that_is_described(path: str):
    route = described(path)
    assert route.endpoint is api.openai.EXPEDITED[path]
    assert route.methods == {"POST"}
    assert route.dependencies == []
    assert [one.dependency for one in api.openai.router.dependencies] == [authenticated]


def test_it_is_looked_for_first_and_documented_once():
    app = create_app(Settings())
    first = app.router.routes[: len(api.openai.EXPEDITED)]
    assert [route.path for route in first if isinstance(route, Express)] == list(
        api.openai.EXPEDITED
    )
    for path in api.openai.EXPEDITED:
        assert set(app.openapi()["paths"][path]) == {"post"}
