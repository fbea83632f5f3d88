"""The outermost layer of a request: its id, its record, its line in the log. Pure ASGI.

Starlette's BaseHTTPMiddleware would put a queue between every chunk of a stream and its client.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection

from api.access.keys import Caller
from api.http.errors import CLIENT_CLOSED_REQUEST, INTERNAL_ERROR
from penstock.observability.logs import about
from penstock.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.observability.telemetry import Meter, Telemetry
    from penstock.observability.tracing import RequestSpan, Tracing

access = logging.getLogger("penstock.access")
logger = logging.getLogger("penstock.api")

SCOPE_KEY: Final = "penstock.record"
DEADLINE_KEY: Final = "penstock.deadline_s"
"""Of a scope that the process itself has made, for a batch."""
REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
PLAIN_VALUE: Final = re.compile(r"[!#-<>-~]+")
"""A value of the log that needs no quotes: printable ASCII without spaces, `"` and `=`."""
QUIET_PATHS: Final = frozenset({"/health", "/ready", "/metrics"})
"""Asked for every few seconds; they go to the log's debug level."""


@dataclass
class RequestRecord:
    """What the log and the metrics say of a request. Handlers fill it in."""

    request_id: str
    path: str = ""
    tenant: str = "anonymous"
    caller: Caller = field(default_factory=Caller)
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Further headers of the response, whatever it will be."""
    deadline_s: float | None = None
    """Time for the request's jobs, where it is not `settings.deadline_s`."""
    model: str = ""
    queue: str = ""
    job_ids: tuple[str, ...] = ()
    error_code: str = ""
    meter: Meter | None = None
    status: int = 0
    span: RequestSpan | None = None
    started_s: float = field(default_factory=time.perf_counter)

    def summary(self, method: str, path: str) -> dict[str, str | int | float]:
        """Return what the log says of the request."""
        pairs: dict[str, str | int | float] = {
            "request_id": self.request_id,
            "method": method,
            "path": path,
            "status": self.status,
            "duration_ms": round((time.perf_counter() - self.started_s) * 1000, 1),
            "tenant": self.tenant,
        }
        if self.model:
            pairs["model"] = self.model
        if self.job_ids:
            pairs["queue"] = self.queue
            pairs["jobs"] = ",".join(self.job_ids)
        if self.meter is not None:
            pairs["prompt_tokens"] = self.meter.prompt_tokens
            pairs["completion_tokens"] = self.meter.completion_tokens
            if self.meter.ttft_s is not None:
                pairs["ttft_ms"] = round(self.meter.ttft_s * 1000, 1)
        if self.error_code:
            pairs["error"] = self.error_code
        return pairs

    def attributes(self) -> dict[str, str | int | float]:
        """Return what a span says of the request, beside HTTP's own."""
        found: dict[str, str | int | float] = {
            "penstock.request_id": self.request_id,
            "penstock.tenant": self.tenant,
        }
        if self.model:
            found["gen_ai.request.model"] = self.model
        if self.meter is not None:
            found["gen_ai.usage.input_tokens"] = self.meter.prompt_tokens
            found["gen_ai.usage.output_tokens"] = self.meter.completion_tokens
            if self.meter.ttft_s is not None:
                found["penstock.time_to_first_token_s"] = self.meter.ttft_s
        if self.error_code:
            found["error.type"] = self.error_code
        return found


def _quoted(value: str) -> str:
    return value if PLAIN_VALUE.fullmatch(value) else ascii(value)


def record_of(connection: HTTPConnection) -> RequestRecord:
    """Return the record of a request."""
    return cast("RequestRecord", connection.scope[SCOPE_KEY])


class RequestContext:
    """Gives every request a record and an id, and answers for what nobody caught."""

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
