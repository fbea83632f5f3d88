"""Endpoints are declared once: route, shortcut and OpenAPI document agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fastapi.routing import APIRoute

import api.openai
from api.access.dependencies import authenticated
from api.application import create_app
from api.endpoint import DirectRoute, Endpoint
from api.openai import embeddings
from api.openai.chat import completions
from api.openai.chat import routes as chat
from penstock.settings import Settings

if TYPE_CHECKING:
    from fastapi import APIRouter

DIRECT = [endpoint for endpoint in api.openai.router.endpoints if endpoint.direct]


def documented(path: str) -> APIRoute:
    """Return FastAPI's own route of a path."""
    parts: list[APIRouter] = [chat.router, completions.router, embeddings.router]
    (route,) = [
        route
        for part in parts
        for route in part.routes
        if isinstance(route, APIRoute) and route.path == path
    ]
    return route


def test_generating_and_embedding_are_direct():
    assert [endpoint.path for endpoint in DIRECT] == [
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    ]  # fmt: skip


@pytest.mark.parametrize("endpoint", DIRECT, ids=lambda endpoint: endpoint.path)
def test_a_direct_endpoint_is_the_documented_one(endpoint: Endpoint):
    route = documented(endpoint.path)
    assert route.endpoint is endpoint.handler
    assert route.methods == {"POST"}
    assert route.dependencies == []
    assert [one.dependency for one in api.openai.router.dependencies] == [authenticated]


def test_direct_endpoints_are_matched_first_and_documented_once():
    app = create_app(Settings())
    first = app.router.routes[: len(DIRECT)]
    assert [route.path for route in first if isinstance(route, DirectRoute)] == [
        endpoint.path for endpoint in DIRECT
    ]
    for endpoint in DIRECT:
        assert set(app.openapi()["paths"][endpoint.path]) == {"post"}


def test_each_body_is_in_the_document():
    app = create_app(Settings())
    schemas = app.openapi()["components"]["schemas"]
    bodies = {one.path: one.body for one in api.openai.router.endpoints if one.body}
    assert len(bodies) > 10
    for path, body in bodies.items():
        content = app.openapi()["paths"][path]["post"]["requestBody"]["content"]
        reference = content["application/json"]["schema"]["$ref"]
        assert reference == f"#/components/schemas/{body.__name__}"
        assert schemas[body.__name__]["type"] == "object"
