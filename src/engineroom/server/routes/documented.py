"""What the OpenAPI document says of errors; they are the same on all routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engineroom.server.auth import OPEN_PATHS
from engineroom.server.wire.common import ErrorBody
from engineroom.server.wire.messages import AnthropicErrorBody

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request can't be served as asked; param says which field."},
    401: {"model": ErrorBody, "description": "A key is missing or wrong."},
    404: {"model": ErrorBody, "description": "There is no such model."},
    413: {"model": ErrorBody, "description": "The body is too large."},
    429: {"model": ErrorBody, "description": "The queue is full; Retry-After says when to come again."},
    500: {"model": ErrorBody, "description": "The engine failed on this request."},
    503: {"model": ErrorBody, "description": "The model loads, sleeps, or has died; or the server stops."},
    504: {"model": ErrorBody, "description": "The request's timeout passed."},
    "default": {"model": ErrorBody, "description": "Whatever else can't be served."},
}


def keyed_document(document: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document of a server that asks for a key."""
    told = document()
    told["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    told["security"] = [{"key": []}]
    for path in OPEN_PATHS:
        told["paths"][path]["get"]["security"] = []
    return told


def streamed(events: str) -> dict[int | str, dict[str, Any]]:
    """Of a route whose answer, with ``stream``, is server-sent events. The schema is one event's, as OpenAPI 3.2 has it.

    Args:
        events: what their data is.
    """
    fields = {"event": {"type": "string"}, "data": {"type": "string", "description": events}}
    schema = {"type": "object", "properties": fields, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"schema": schema}}}}


ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**told, "model": AnthropicErrorBody} for status, told in ERRORS.items()
}

EITHER_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**told, "model": ErrorBody | AnthropicErrorBody} for status, told in ERRORS.items()
}
"""Of routes that both APIs have."""
