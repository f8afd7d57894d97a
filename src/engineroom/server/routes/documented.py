"""What the OpenAPI document says of errors; they are the same on all routes."""

from __future__ import annotations

from typing import Any

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

ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**told, "model": AnthropicErrorBody} for status, told in ERRORS.items()
}

EITHER_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**told, "model": ErrorBody | AnthropicErrorBody} for status, told in ERRORS.items()
}
"""Of routes that both APIs have."""
