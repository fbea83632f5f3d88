"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi.routing import APIRoute

from api.anthropic.threads import UnknownThread
from api.http.errors import answer_of, json_response, response_headers
from api.http.record import record_of
from api.http.unread_body import LEAVES_BODY, LingeringResponse
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

    from api.http.record import RequestRecord

REQUEST_ID_HEADER: Final = "request-id"

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_object(error: PenstockError, request_id: str) -> dict[str, Any]:
    """Return Anthropic's object of an error; `code` and `param` are ours."""
    status = answer_of(error).status
    body = error_body(status, error.message, request_id, code=error.code, param=error.param)
    if isinstance(error, UnknownThread):
        body["error"]["details"] = error.details
    return body


def error_body(
    status: int, message: str, request_id: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return Anthropic's object of what has this status."""
    inner = {"type": TYPES.get(status, "api_error"), "message": message}
    extras = {name: text for name, text in (("code", code), ("param", param)) if text}
    return {"type": "error", "error": {**inner, **extras}, "request_id": request_id}


def anthropic_response(error: PenstockError, record: RequestRecord) -> Response:
    """Return the response that makes Anthropic's SDK raise the right class."""
    record.headers[REQUEST_ID_HEADER] = record.request_id
    return json_response(
        error_object(error, record.request_id), answer_of(error).status, response_headers(error)
    )


class AnthropicRoute(APIRoute):
    """Answers errors as Anthropic's SDK reads them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            record = record_of(request)
            record.headers[REQUEST_ID_HEADER] = record.request_id
            try:
                return await handler(request)
            except PenstockError as error:
                record.error_code = error.code
                answer = anthropic_response(error, record)
                return LingeringResponse(answer) if isinstance(error, LEAVES_BODY) else answer

        return handle
