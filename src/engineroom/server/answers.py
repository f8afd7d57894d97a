"""Bodies of JSON that routes write themselves."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


class JsonAnswer(Response):
    """JSON without NaN: a number that is none is a defect, and no client could read it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
