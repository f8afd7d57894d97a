"""Bodies of JSON that routes write themselves."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from engineroom.server.encoding import compact
from engineroom.server.tickets import Ticket


class JsonAnswer(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return compact(content)


def counted(body: dict[str, Any], ticket: Ticket) -> JsonAnswer:
    """An answer with choices and usage, counted on its ticket."""
    usage = body["usage"]
    reasons = [choice["finish_reason"] for choice in body["choices"]]
    ticket.counted(usage["prompt_tokens"], usage["completion_tokens"], reasons)
    return JsonAnswer(body)
