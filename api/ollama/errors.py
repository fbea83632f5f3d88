"""Errors in Ollama's shape: a status, and an object with one text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.http.errors import answer_of, json_response, response_headers

if TYPE_CHECKING:
    from starlette.responses import Response

    from penstock.errors import PenstockError


def error_object(message: str, code: str | None = None) -> dict[str, Any]:
    """Return Ollama's object of an error; `code` is ours."""
    return {"error": message, **({"code": code} if code else {})}


def ollama_response(error: PenstockError) -> Response:
    """Return the response that makes Ollama's clients raise their `ResponseError`."""
    body = error_object(error.message, error.code)
    return json_response(body, answer_of(error).status, response_headers(error))
