"""The outermost layer of a request: its id, its record, its line in the log. Pure ASGI.

Starlette's BaseHTTPMiddleware would put a queue between every chunk of a stream and its client.
"""

from __future__ import annotations

import logging
import re
import uuid
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection

from api.http.errors import CLIENT_CLOSED_REQUEST, INTERNAL_ERROR
from api.http.record import DEADLINE_KEY, SCOPE_KEY, RequestRecord
from api.http.warnings import HEADER as WARNINGS_HEADER
from penstock.observability.logs import about
from penstock.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.observability.telemetry import Telemetry
    from penstock.observability.tracing import Tracing

access = logging.getLogger("penstock.access")
logger = logging.getLogger("penstock.api")

LONGEST_REQUEST_ID: Final = 128
REQUEST_ID: Final = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_REQUEST_ID}}}")
PLAIN_VALUE: Final = re.compile(r"[!#-<>-~]+")
"""A value of the log that needs no quotes: printable ASCII without spaces, `"` and `=`."""
QUIET_PATHS: Final = frozenset({"/health", "/ready", "/metrics"})
"""Asked for every few seconds; they go to the log's debug level."""


def _quoted(value: str) -> str:
    return value if PLAIN_VALUE.fullmatch(value) else ascii(value)


class RequestContext:
    """Gives every request a record and an id, and answers uncaught exceptions."""

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        broken: Callable[[HTTPConnection], Response],
        tracing: Tracing | None = None,
    ) -> None:
        """`broken` gives the response to such a request, in its protocol's shape."""
        self._app = app
        self._telemetry = telemetry
        self._broken = broken
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        record = scope[SCOPE_KEY] = RequestRecord(
            request_id, scope["path"], deadline_s=scope.get(DEADLINE_KEY)
        )
        if self._tracing is not None and scope["path"] not in QUIET_PATHS:
            traceparent = Headers(scope=scope).get("traceparent", "")
            record.span = self._tracing.request(
                scope["method"], redacted(scope["path"]), traceparent
            )

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers.update(record.headers)
                if record.warnings:
                    headers[WARNINGS_HEADER] = record.warnings.header
            await send(message)

        with about(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                logger.exception("request %s failed", request_id)
                record.error_code = INTERNAL_ERROR
                if record.status:  # what has begun can only be cut; a `FramedResponse` ends itself
                    raise
                answer = self._broken(HTTPConnection(scope))
                await answer(scope, receive, send_with_id)
            finally:
                self._close(record, scope)

    def _close(self, record: RequestRecord, scope: Scope) -> None:
        record.status = record.status or CLIENT_CLOSED_REQUEST
        if record.error_code:
            self._telemetry.errors.labels(record.error_code).inc()
        route = scope.get("route")
        # The template: what clients ask for has no bound. Routers are included without a prefix,
        # so that it is whole.
        path = getattr(route, "path", "unknown")
        self._telemetry.http_requests.labels(scope["method"], path, str(record.status)).inc()
        if record.span is not None:
            record.span.end(path, record.status, record.attributes())
        level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
        if access.isEnabledFor(level):
            summary = record.summary(scope["method"], redacted(scope["path"]))
            line = " ".join(f"{key}={_quoted(str(value))}" for key, value in summary.items())
            access.log(level, line, extra={"fields": summary})
