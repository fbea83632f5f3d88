"""The record of one request: what the access log, the metrics and the traces report about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from api.http.caller import ANONYMOUS, Caller
from api.http.warnings import Warnings

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from penstock.observability.telemetry import Meter
    from penstock.observability.tracing import RequestSpan

SCOPE_KEY: Final = "penstock.record"
DEADLINE_KEY: Final = "penstock.deadline_s"
"""Key of an ASGI scope that this process made itself, for a batch."""

LONGEST_SESSION: Final = 512
"""Characters of a conversation's name that are looked at."""


@dataclass
class RequestRecord:
    """What is reported about a request. Handlers fill it in."""

    request_id: str
    path: str = ""
    tenant: str = ANONYMOUS
    caller: Caller = field(default_factory=Caller)
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Headers that are added to the response, whatever its status."""
    warnings: Warnings = field(default_factory=Warnings)
    """What was left out of the request; the response has a header of them."""
    deadline_s: float | None = None
    """Time for the request's jobs if it differs from `settings.deadline_s`."""
    model: str = ""
    queue: str = ""
    job_ids: tuple[str, ...] = ()
    error_code: str = ""
    meter: Meter | None = None
    status: int = 0
    session: str = ""
    """The client's name for the conversation, by which a worker with its beginning is found."""
    span: RequestSpan | None = None
    started_s: float = field(default_factory=time.perf_counter)

    def note_session(self, name: object) -> None:
        """Note the client's name for the conversation, if it is one."""
        if isinstance(name, str):
            self.session = name[:LONGEST_SESSION]

    def summary(self, method: str, path: str) -> dict[str, str | int | float]:
        """Return the fields of the access log's line."""
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
        """Return the attributes of the request's span, beside HTTP's own."""
        attributes: dict[str, str | int | float] = {
            "penstock.request_id": self.request_id,
            "penstock.tenant": self.tenant,
        }
        if self.model:
            attributes["gen_ai.request.model"] = self.model
        if self.meter is not None:
            attributes["gen_ai.usage.input_tokens"] = self.meter.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = self.meter.completion_tokens
            if self.meter.ttft_s is not None:
                attributes["penstock.time_to_first_token_s"] = self.meter.ttft_s
        if self.error_code:
            attributes["error.type"] = self.error_code
        return attributes


def record_of(connection: HTTPConnection) -> RequestRecord:
    """Return the record of a request."""
    return cast("RequestRecord", connection.scope[SCOPE_KEY])
