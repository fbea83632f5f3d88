"""Spans of a request for OpenTelemetry; no cost if tracing is off.

    POST /v1/chat/completions              the API: until the last byte is sent
      chat bigdl-7b                        a worker's attempt at one of its jobs
        queue wait | claim | prefill | decode

Names and attributes follow OpenTelemetry's semantic conventions for HTTP and generative AI. A
job carries its request's `traceparent`. `settings.traces` is the destination: "otlp" sends spans as
the standard `OTEL_*` variables specify; any other value is a file, with a line of JSON a span.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TextIO, cast

import penstock
from penstock.contract.events import Finished, Tokens
from penstock.contract.job import ChatPrompt
from penstock.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

    from penstock.contract.events import Event
    from penstock.contract.job import Job
    from penstock.settings import Settings

    Attributes = Mapping[str, str | int | float | tuple[str, ...]]

OTLP: Final = "otlp"
FILE_MODE: Final = 0o640


class Tracing:
    """One process's tracer. Any thread may call its methods."""

    def __init__(self, settings: Settings, service: str) -> None:
        """Create the tracer and its exporter.

        :raises BadSettings: the packages of the extra `otel` are missing.
        """
        if find_spec("opentelemetry.sdk") is None:
            raise BadSettings("PENSTOCK_TRACES needs: pip install 'penstock[otel]'")
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  an optional extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  an optional extra

        resource = Resource.create(
            {"service.name": service, "service.version": penstock.__version__}
        )
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(_processor(settings.traces))
        self._tracer: Tracer = self._provider.get_tracer("penstock", penstock.__version__)

    @classmethod
    def of(cls, settings: Settings, service: str) -> Tracing | None:
        """Return the tracing that the settings ask for; None if it is off.

        :raises BadSettings: see `__init__`.
        """
        return cls(settings, service) if settings.traces else None

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()

    def request(self, method: str, route: str, traceparent: str) -> RequestSpan:
        """Start the span of an HTTP request, as a child of the caller's if the request has one."""
        return RequestSpan(self._tracer, method, route, traceparent)

    def attempt(self, job: Job, claimed: tuple[int, int], worker_id: str, epoch: int) -> JobSpans:
        """Start the span of an attempt; `claimed` are the times of the claim's call and answer."""
        return JobSpans(self._tracer, job, claimed, worker_id, epoch)


class RequestSpan:
    """The server span of one request."""

    def __init__(self, tracer: Tracer, method: str, route: str, traceparent: str) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  an optional extra
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  an optional extra
            TraceContextTextMapPropagator,
        )

        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
        self._span = tracer.start_span(
            f"{method} {route}", context=parent, kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": route},
        )  # fmt: skip

    @property
    def traceparent(self) -> str:
        """The `traceparent` that a job carries to its worker."""
        context = self._span.get_span_context()
        flags = int(context.trace_flags)
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def end(self, route: str, status: int, attributes: Attributes) -> None:
        """End the span: the last byte is sent, or the client has gone."""
        self._span.update_name(f"{_method(self._span)} {route}")
        self._span.set_attributes(
            {"http.route": route, "http.response.status_code": status, **attributes}
        )
        if status >= 500:  # noqa: PLR2004  HTTP's class of server errors
            _mark_failed(self._span, str(status))
        self._span.end()


class JobSpans:
    """The spans of one attempt at a job, from the times of its events."""

    def __init__(
        self, tracer: Tracer, job: Job, claimed: tuple[int, int], worker_id: str, epoch: int
    ) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  an optional extra
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  an optional extra
            TraceContextTextMapPropagator,
        )

        asked_ns, claimed_ns = claimed
        # The queue's clock is Redis's: a job may seem to be claimed before it was created.
        created_ns = min(job.created_ms * 1_000_000, asked_ns)
        self._tracer = tracer
        self._since_ns = claimed_ns
        self._first = True
        self._model = job.model
        attributes = _request_attributes(job)
        self._span = tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {job.model}",
            context=TraceContextTextMapPropagator().extract({"traceparent": job.trace}),
            kind=SpanKind.CONSUMER,
            start_time=created_ns,
            attributes={
                **attributes,
                "penstock.queue": job.queue,
                "penstock.worker": worker_id,
                "penstock.attempt": epoch,
                "penstock.request_id": job.request_id,
            },
        )
        self._part("queue wait", created_ns, asked_ns)
        self._part("claim", asked_ns, claimed_ns)

    def see(self, event: Event, now_ns: int) -> bool:
        """Record an event; return whether it was the last one."""
        if self._first:
            self._first = False
            self._part("prefill", self._since_ns, now_ns)
            self._since_ns = now_ns
        if isinstance(event, Tokens):
            return False
        self._part("decode", self._since_ns, now_ns)
        if isinstance(event, Finished):
            self._span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": event.usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": event.usage.completion_tokens,
                    "gen_ai.usage.cache_read.input_tokens": event.usage.cached_tokens,
                    "gen_ai.response.finish_reasons": (event.reason.value,),
                    "gen_ai.response.model": self._model,
                }
            )
        else:
            _mark_failed(self._span, event.code)
        self._span.end(now_ns)
        return True

    def drop(self, now_ns: int) -> None:
        """End the span: another worker has the job, or it is over."""
        self._span.set_attribute("penstock.dropped", value=True)
        self._span.end(now_ns)

    def _part(self, name: str, start_ns: int, end_ns: int) -> None:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415  an optional extra

        part = self._tracer.start_span(
            name, context=set_span_in_context(self._span), start_time=start_ns
        )
        part.end(max(start_ns, end_ns))


def _request_attributes(job: Job) -> dict[str, str | int | float | tuple[str, ...]]:
    """Return the attributes of a request in the conventions; default values are omitted."""
    sampling = job.work.sampling
    operation = "chat" if isinstance(job.work.prompt, ChatPrompt) else "text_completion"
    attributes: dict[str, str | int | float | tuple[str, ...]] = {
        "gen_ai.operation.name": "embeddings" if job.work.embed else operation,
        "gen_ai.provider.name": "penstock",
        "gen_ai.request.model": job.model,
        "gen_ai.response.id": job.id,
    }
    if job.work.embed:
        return attributes
    attributes |= {
        "gen_ai.output.type": "text" if sampling.structure is None else "json",
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": sampling.seed,
    }
    optional = {
        "max_tokens": sampling.max_tokens,
        "top_k": sampling.top_k,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_sequences": sampling.stop,
    }
    return attributes | {
        f"gen_ai.request.{name}": value for name, value in optional.items() if value
    }


def _method(span: Span) -> str:
    return str(getattr(span, "name", "")).split(" ", 1)[0]


def _mark_failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  an optional extra

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _processor(target: str) -> SpanProcessor:
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415  an optional extra  an optional extra
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    if target == OTLP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  an optional extra
            OTLPSpanExporter,
        )

        return BatchSpanProcessor(OTLPSpanExporter())
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
    except OSError as error:
        raise BadSettings(f"PENSTOCK_TRACES: {error}") from error
    return SimpleSpanProcessor(
        ConsoleSpanExporter(
            out=cast("TextIO", _Lines(descriptor)),
            formatter=lambda span: (span.to_json(indent=None) or "") + "\n",
        )
    )


class _Lines:
    """A file that several processes append to, each line in one write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: str) -> int:
        return os.write(self._descriptor, line.encode())

    def flush(self) -> None:
        """Do nothing: a write reaches the system at once."""
