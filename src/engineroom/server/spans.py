"""A span of OpenTelemetry for each request, where the process is set up for it. Ids and counts, nobody's text.

Names are those of OpenTelemetry's semantic conventions for HTTP servers and generative AI. Nothing is imported, and nothing
done for a request, unless spans go somewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.types import Scope

import engineroom
from engineroom.errors import ArgumentError
from engineroom.server.http import path_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from engineroom.server.tickets import Ticket

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_QUIET = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by machines."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def export_spans(environ: Mapping[str, str] = os.environ) -> str:
    """Sends this process's spans to the collector that OpenTelemetry's own variables name; nothing, if they name none.

    Returns:
        What whoever starts the server should know, or nothing.

    Raises:
        ArgumentError: the collector's protocol is not one of ours.
    """
    if not any(environ.get(name) for name in _ENDPOINTS) or _turned_off(environ):
        return ""
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    module = {"http/protobuf": "http", "grpc": "grpc"}.get(protocol)
    if module is None:
        raise ArgumentError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not supported", why="allowed: http/protobuf, grpc"
        )
    exporter = f"opentelemetry.exporter.otlp.proto.{module}"
    if not (_is_installed("opentelemetry.sdk") and _is_installed(exporter)):
        fix = f"pip install 'engineroom[otel]'{' opentelemetry-exporter-otlp' if module == 'grpc' else ''}"
        return f"no spans are sent, though an OTLP endpoint is set: {exporter} is not installed. {fix}"
    _export(module, environ)
    return ""


def _turned_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER", "").lower() == "none"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it lies in
        return False


def _export(module: str, environ: Mapping[str, str]) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if module == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    service = {} if named else {"service.name": "engineroom"}
    provider = TracerProvider(
        resource=Resource.create({**service, "service.version": engineroom.__version__})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # it sends what is left when the interpreter ends


def spans_if_configured() -> Spans | None:
    """Spans, if this process has a tracer provider: ``export_spans``', or that of the program around."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return Spans(trace.get_tracer("engineroom", engineroom.__version__))


class Spans:
    """Makes them with one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def around(self, scope: Scope, ticket: Ticket) -> Generator[None, None, None]:
        """A span for a request, in the trace that its client began, if it says so (``traceparent``)."""
        if path_of(scope) in _QUIET:
            yield
            return
        from opentelemetry import propagate, trace

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            ticket.method, propagate.extract(headers), trace.SpanKind.SERVER, record_exception=False
        )
        try:
            # An exception's text may hold what people wrote.
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        finally:
            if span.is_recording():
                _describe(span, ticket)
            span.end()


def _describe(span: Span, ticket: Ticket) -> None:
    from opentelemetry.trace import StatusCode

    operation = _OPERATIONS.get(ticket.route)
    span.update_name(f"{operation} {ticket.model}" if operation and ticket.model else _http_name(ticket))
    told = {
        "http.request.method": ticket.method,
        "http.route": ticket.route,
        "http.response.status_code": ticket.status or None,
        "engineroom.request.id": ticket.id,
        "engineroom.client_left": ticket.left or None,
        "error.type": ticket.error or None,
    }
    if operation:
        told |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "engineroom",
            "gen_ai.request.model": ticket.model or None,
            "gen_ai.response.model": ticket.model or None,
            "gen_ai.response.id": ticket.answer_id or None,
            "gen_ai.response.finish_reasons": tuple(ticket.finish_reasons) or None,
            "gen_ai.response.time_to_first_chunk": ticket.first_sent or None,
            "gen_ai.usage.input_tokens": ticket.prompt_tokens or None,
            "gen_ai.usage.output_tokens": ticket.completion_tokens or None,
        }
    span.set_attributes({name: value for name, value in told.items() if value is not None})
    if ticket.status >= 500 or (ticket.error and ticket.status < 400):  # a stream that failed has status 200
        span.set_status(StatusCode.ERROR)


def _http_name(ticket: Ticket) -> str:
    return ticket.method if ticket.route == "other" else f"{ticket.method} {ticket.route}"
