"""The bodies' schemas in the OpenAPI document.

Handlers read their bodies themselves (one limit, one error's shape), so FastAPI does not see them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from pydantic import BaseModel

TEMPLATE: Final = "#/components/schemas/{model}"
_bodies: Final[list[type[BaseModel]]] = []
"""Filled as the handlers are imported."""


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a handler that reads its body as `schema`."""
    _bodies.append(schema)
    reference = {"$ref": TEMPLATE.format(model=schema.__name__)}
    content = {"application/json": {"schema": reference}}
    return {"requestBody": {"required": True, "content": content}}


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return what makes the application's document, once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, bodies = models_json_schema(
                [(body, "validation") for body in _bodies], ref_template=TEMPLATE
            )
            made.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    return document
