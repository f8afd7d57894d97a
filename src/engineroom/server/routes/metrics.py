"""``/metrics`` for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response

from engineroom.server.routes.documented import ERRORS
from engineroom.server.routes.health import state_of
from engineroom.server.service import Service, service_of
from engineroom.server.tickets import Buckets

if TYPE_CHECKING:
    from prometheus_client.core import Metric

router = APIRouter(tags=["server"])


_FORMAT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=Response, responses={**ERRORS, **_FORMAT})
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(service_of(request)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Figures(Collector):
    """Reads what the server counts anyway."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        tickets = self._service.tickets
        yield _gauge("requests_open", "HTTP requests being served.", len(tickets.live))
        yield _gauge("ready", "1 if a request would be served now.", int(state_of(self._service) == "ready"))
        if self._service.loaded is not None:
            engine = GaugeMetricFamily(
                "engineroom_engine", "1 for the engine that serves.", labels=["engine"]
            )
            engine.add_metric((self._service.loaded.engine.name,), 1)
            yield engine
            load = self._service.loaded.load
            yield _gauge("answers_running", "Answers in the engine.", load.running)
            yield _gauge("answers_waiting", "Answers waiting for their turn.", load.waiting)
            yield _gauge("answers_limit", "Answers that the engine runs at once.", load.limit)
            yield _gauge("queue_limit", "Answers that may wait.", load.max_queue)
        totals = tickets.totals
        requests = _counter("requests", "HTTP requests served.", "route", "status")
        for (route, status), count in totals.requests.items():
            requests.add_metric((route, str(status)), count)
        yield requests
        errors = _counter("errors", "Requests that ended with an error, streamed ones too.", "code")
        for code, count in totals.errors.items():
            errors.add_metric((code,), count)
        yield errors
        switches = _counter("switches", "Switches of engine or model, by how they ended.", "outcome")
        for outcome, count in self._service.switcher.outcomes.items():
            switches.add_metric((outcome,), count)
        yield switches
        yield _total("clients_left", "Requests whose client left before the end.", totals.left)
        yield _total("prompt_tokens", "Tokens of prompts.", totals.prompt_tokens)
        yield _total("generated_tokens", "Tokens of answers.", totals.completion_tokens)
        yield _histogram("request_seconds", "From a request's beginning to its end.", tickets.totals.seconds)
        yield _histogram("first_token_seconds", "To the first event of a stream.", tickets.first_token)
        yield _histogram("inter_token_seconds", "Between two events of a stream.", tickets.gaps)


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"engineroom_{name}", help, value=value)


def _counter(name: str, help: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"engineroom_{name}", help, labels=labels)


def _total(name: str, help: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"engineroom_{name}", help, value=value)


def _histogram(name: str, help: str, buckets: Buckets) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"engineroom_{name}", help)
    below, cumulative = 0, list[tuple[str, float]]()
    for bound, count in zip((*map(str, buckets.bounds), "+Inf"), buckets.counts, strict=True):
        below += count
        cumulative.append((bound, below))
    family.add_metric((), cumulative, buckets.sum)
    return family
