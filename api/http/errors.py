"""The one table from Penstock's errors to HTTP, and OpenAI's shape for them.

OpenAI's SDKs choose the exception's class by the status, and retry 408, 409, 429 and 5xx by
themselves; `retry=False` indicates that trying again cannot help (header `x-should-retry`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from penstock import errors
from penstock.transport.store.connection import as_unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("penstock.api")


@dataclass(frozen=True)
class Answer:
    """How an error looks to a client."""

    status: int
    type: str
    retry: bool | None = None
    retry_after_s: float | None = None


INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"
UNAVAILABLE: Final = "service_unavailable_error"

TABLE: Final[Mapping[type[errors.PenstockError], Answer]] = {
    errors.InvalidParameter: Answer(400, INVALID),
    errors.ContextOverflow: Answer(400, INVALID),
    errors.BodyTooLarge: Answer(413, INVALID),
    errors.RequestTooSlow: Answer(408, INVALID),
    errors.UnsupportedEncoding: Answer(415, INVALID),
    errors.UnsupportedFeature: Answer(400, INVALID),
    errors.NotAuthenticated: Answer(401, "authentication_error"),
    errors.NotPermitted: Answer(403, "permission_error"),
    errors.UnknownModel: Answer(404, INVALID),
    errors.UnknownJob: Answer(404, INVALID),
    errors.UnknownObject: Answer(404, INVALID),
    errors.QueueFull: Answer(429, "rate_limit_error", retry_after_s=1.0),
    errors.Overloaded: Answer(429, "rate_limit_error", retry_after_s=1.0),
    errors.RateLimited: Answer(429, "rate_limit_error", retry_after_s=1.0),
    # OpenAI's SDKs would try again within seconds, which cannot help.
    errors.QuotaExceeded: Answer(429, "insufficient_quota", retry=False, retry_after_s=3_600.0),
    errors.NoWorker: Answer(503, UNAVAILABLE, retry_after_s=5.0),
    errors.ModelLoadFailed: Answer(503, UNAVAILABLE, retry=False, retry_after_s=60.0),
    errors.StoreUnavailable: Answer(503, UNAVAILABLE, retry_after_s=2.0),
    errors.Draining: Answer(503, UNAVAILABLE, retry_after_s=1.0),
    # A job that used up its time, or its workers, would do so again.
    errors.DeadlineExceeded: Answer(504, "timeout_error", retry=False),
    errors.Cancelled: Answer(499, "request_cancelled", retry=False),
    errors.PoisonJob: Answer(500, SERVER, retry=False),
    errors.EngineFailed: Answer(500, SERVER),
    # Start-up errors end a process; one that surfaces in a request is our fault.
    errors.BadSettings: Answer(500, SERVER, retry=False),
    errors.ModelNotFound: Answer(500, SERVER, retry=False),
    errors.ModelNotLoadable: Answer(500, SERVER, retry=False),
    errors.DeviceNotFound: Answer(500, SERVER, retry=False),
    # Inner nodes, for codes of newer workers that this process does not know.
    errors.JobFailed: Answer(500, SERVER),
    errors.PenstockError: Answer(500, SERVER),
}

INTERNAL_ERROR: Final = errors.PenstockError.code
CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's status for a client that went away; it is only ever logged."""


def answer_of(error: errors.PenstockError) -> Answer:
    """Return the table's entry of the error's class or of its nearest parent."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    raise TypeError(f"{type(error).__name__} is no PenstockError")


def known(error: Exception) -> errors.PenstockError | None:
    """Return the error for a client; None for an unexpected exception."""
    return error if isinstance(error, errors.PenstockError) else as_unavailable(error)


def internal_error() -> errors.PenstockError:
    """Return the error body of an unexpected exception; its text is only for the log."""
    return errors.PenstockError("Internal error")


def openai_body(message: str, kind: str, *, param: str | None, code: str | None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_error(error: errors.PenstockError) -> dict[str, Any]:
    """Return OpenAI's error object of a Penstock error; for bodies and for SSE events."""
    return openai_body(error.message, answer_of(error).type, param=error.param, code=error.code)


def response_headers(error: errors.PenstockError) -> dict[str, str]:
    """Return the headers that state when, and whether, to try again."""
    answer = answer_of(error)
    headers: dict[str, str] = {}
    retry_after_s = getattr(error, "retry_after_s", None) or answer.retry_after_s
    if retry_after_s is not None:
        # Whole seconds, as RFC 9110 requires, and never 0: retrying at once is what made it full.
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if answer.retry is not None:
        headers["x-should-retry"] = "true" if answer.retry else "false"
    if isinstance(error, errors.UnsupportedEncoding):
        headers["accept-encoding"] = "gzip, deflate"
    if isinstance(error, errors.NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    return headers


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return `content` encoded by msgspec."""
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def openai_response(error: errors.PenstockError) -> Response:
    """Return the response that makes OpenAI's SDK raise the right class."""
    return json_response(openai_error(error), answer_of(error).status, response_headers(error))
