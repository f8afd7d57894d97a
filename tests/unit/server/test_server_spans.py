"""Spans: one for each request, in the client's trace, with ids and counts and nobody's text."""

import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from engineroom import Reply
from engineroom.errors import ArgumentError
from engineroom.server.spans import export_spans
from serving import CHAT, asking

SECRET = [{"role": "user", "content": "my secret"}]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter, None, None]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def the_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_a_span_in_the_trace_of_its_client(exporter: InMemorySpanExporter, stream: bool) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    with asking(["my answer"]) as ask:
        usage = ask("/tokenize", {"messages": SECRET}).json()["count"]
        exporter.clear()
        body = {"messages": SECRET, "stream": stream, "n": 2, "max_tokens": 3}
        assert ask(CHAT, body, headers=headers).status_code == 200
    span = the_span(exporter)
    attributes = dict(span.attributes or {})
    assert (attributes.pop("gen_ai.response.time_to_first_chunk", 0) > 0) == stream
    assert attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "engineroom.request.id": "mine",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "engineroom",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.response.id": "chatcmpl-mine",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": usage,
        "gen_ai.usage.output_tokens": 6,
    }
    assert (span.name, span.kind) == ("chat demo", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "my secret"}),
        ("/v1/messages", {"messages": SECRET, "max_tokens": 9, "model": "demo"}),
        ("/v1/completions", {"prompt": ["my secret", "x"], "n": 2}),
    ],
)
def test_each_way_to_ask_is_told_alike_whole_and_streamed(
    exporter: InMemorySpanExporter, path: str, body: dict[str, Any]
) -> None:
    told: list[dict[str, Any]] = []
    with asking(["x"]) as ask:
        for stream in (False, True):
            ask(path, {**body, "stream": stream}, headers={"x-request-id": "mine"})
            told.append(dict(the_span(exporter).attributes or {}))
            told[-1].pop("gen_ai.response.time_to_first_chunk", None)
            exporter.clear()
    whole, streamed = told
    assert whole == streamed
    assert whole["gen_ai.response.id"].endswith("mine")
    assert set(whole["gen_ai.response.finish_reasons"]) == {"stop"}
    assert whole["gen_ai.usage.input_tokens"] > 0


def test_no_text_of_anybody_is_in_a_span(exporter: InMemorySpanExporter) -> None:
    with asking(["my answer", Reply("my answer", error=ValueError("my secret"))]) as ask:
        for path, body in (
            (CHAT, {"messages": SECRET}),
            (CHAT, {"messages": SECRET}),
            (CHAT, {"messages": SECRET, "model": "my secret"}),
            ("/v1/completions", {"prompt": "my secret", "stream": True}),
            ("/v1/models/my%20secret", None),
            ("/my%20secret", None),
        ):
            ask(path, body)
    spans = exporter.get_finished_spans()
    assert len(spans) == 6
    told = " ".join(span.to_json() for span in spans)
    assert "secret" not in told
    assert "my answer" not in told


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_an_error_and_a_refusal_is_not(exporter: InMemorySpanExporter, stream: bool) -> None:
    failing = Reply("some text", error=ValueError("x"))
    with asking([failing]) as ask:
        ask(CHAT, {"messages": SECRET, "stream": stream})
        ask(CHAT, {"messages": SECRET, "temperature": -1})
    failed, refused = exporter.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "generation_failed"
    assert refused.status.status_code is StatusCode.UNSET
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "invalid_value"


def test_probes_have_no_spans(exporter: InMemorySpanExporter) -> None:
    with asking(["x"]) as ask:
        for path in ("/health", "/ready", "/metrics", "/version"):
            ask(path)
    assert the_span(exporter).name == "GET /version"


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environ",
    [{}, {**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}],
)
def test_without_an_endpoint_nothing_is_set_up(environ: dict[str, str]) -> None:
    assert export_spans(environ) == ""
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def test_what_can_not_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="http/json is not supported"):
        export_spans({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("engineroom.server.spans.find_spec", missing)
    assert "pip install 'engineroom[otel]'" in export_spans(ENDPOINT)


SEND = """
import http.server, os, sys, threading

class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass

got = []
collector = http.server.HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=collector.serve_forever, daemon=True).start()
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
from engineroom.server.spans import export_spans, spans_if_configured
assert "opentelemetry" not in sys.modules and spans_if_configured() is None
assert export_spans() == ""
sys.path.insert(0, sys.argv[1])
from serving import CHAT, HI, asking
with asking(["x"]) as ask:
    assert ask(CHAT, {"messages": HI}).status_code == 200
from opentelemetry import trace
trace.get_tracer_provider().shutdown()
[(path, body)] = got
assert path == "/v1/traces" and b"chat demo" in body and b"engineroom" in body, (path, body)
"""


def test_spans_reach_the_collector_that_the_environment_names(request: pytest.FixtureRequest) -> None:
    """In a process of its own: a provider is set once for all."""
    done = subprocess.run(
        [sys.executable, "-c", SEND, str(request.path.parents[2])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
