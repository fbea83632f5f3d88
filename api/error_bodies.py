"""Error bodies in the format of the request's protocol, which its path determines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import api.anthropic
import api.fastchat
import api.ollama
from api.anthropic.route import REQUEST_ID_HEADER, anthropic_response, error_body
from api.fastchat.errors import ErrorCode, Refusal, error_object
from api.fastchat.route import error_response
from api.http.errors import INVALID, internal_error, json_response, openai_body, openai_response
from api.http.record import record_of
from api.http.unread_body import LEAVES_BODY, LingeringResponse
from api.ollama.errors import error_object as ollama_object
from api.ollama.errors import ollama_response
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response

    from penstock.errors import PenstockError

CODES: Final = {404: "unknown_url", 405: "method_not_allowed"}


def shaped(connection: HTTPConnection, error: PenstockError) -> Response:
    """Return the answer to a request that ended in an error, and note it for the log."""
    record = record_of(connection)
    record.error_code = error.code
    path = connection.url.path
    if api.fastchat.speaks(path):
        answer = error_response(path, error_object(error))
    elif api.anthropic.speaks(path):
        answer = anthropic_response(error, record)
    elif api.ollama.speaks(path):
        answer = ollama_response(error)
    else:
        answer = openai_response(error)
    return LingeringResponse(answer) if isinstance(error, LEAVES_BODY) else answer


def refused(request: Request, error: HTTPException) -> Response:
    """Return the router's own errors (404, 405) with their status, which is FastChat's too here."""
    path, status = request.url.path, error.status_code
    message, code = f"{error.detail}: {request.method} {path}", CODES.get(status)
    if api.fastchat.speaks(path):
        refusal = Refusal(InvalidParameter(message), ErrorCode.VALIDATION_TYPE_ERROR)
        return json_response(error_object(refusal), status, error.headers)
    if api.anthropic.speaks(path):
        record = record_of(request)
        record.headers[REQUEST_ID_HEADER] = record.request_id
        body = error_body(status, message, record.request_id, code=code)
        return json_response(body, status, error.headers)
    if api.ollama.speaks(path):
        return json_response(ollama_object(message, code), status, error.headers)
    return json_response(
        openai_body(message, INVALID, param=None, code=code), status, error.headers
    )


def broken(connection: HTTPConnection) -> Response:
    """Return the answer to an unexpected exception; its text stays in the log."""
    return shaped(connection, internal_error())
