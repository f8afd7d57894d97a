"""Bodies of JSON that are large: read without holding up everybody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from engineroom.call import beside

LARGE = 65_536
"""Bytes. To read fewer takes less than a thread costs. On a thread other streams go on between the steps of the work; each of
them holds them up on its own, for the interpreter runs one thread at a time."""


class JsonRoute(APIRoute):
    """A route whose body is read on a thread if it is large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read_and_handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return await beside(partial(_read, body), len(body), most=LARGE)


def _read(body: bytes) -> Any:
    """As ``json.loads``, which says what is wrong; of what is right and large, numbers are read in half of its time."""
    if len(body) > LARGE:
        try:
            return from_json(body, cache_strings="keys")
        except ValueError:
            pass
    return json.loads(body)
