"""Bodies of JSON that routes write themselves."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from engineroom.server.encoding import compact


class JsonAnswer(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return compact(content)
