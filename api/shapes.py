"""An error in the shape of the protocol that its request speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import api.anthropic
import api.fastchat
from api.anthropic.route import anthropic_response
from api.errors import openai_response
from api.fastchat.errors import error_object
from api.fastchat.route import error_response
from api.lingering import LingeringResponse
from api.middleware import record_of
from penstock.errors import BodyTooLarge, PenstockError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.responses import Response


def shaped(connection: HTTPConnection, error: PenstockError) -> Response:
    """Return the answer to a request that ended in an error, and note it for the log."""
    record = record_of(connection)
    record.error_code = error.code
    path = connection.url.path
    if path in api.fastchat.PATHS:
        answer = error_response(path, error_object(error))
    elif path in api.anthropic.PATHS:
        answer = anthropic_response(error, record)
    else:
        answer = openai_response(error)
    return LingeringResponse(answer) if isinstance(error, BodyTooLarge) else answer
