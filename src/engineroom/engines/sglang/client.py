"""SGLang's HTTP interface, as far as it is used here. On the model's event loop only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import httpx

_CONNECT = 5.0
_DONE = b"[DONE]"
_DATA = b"data: "


class Refused(Exception):  # noqa: N818 - never leaves the package
    """The server answered with an error; the message is its own."""


class Client:
    """
    Args:
        url: of the server.
        key: its ``api_key``, or None.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not url.startswith("http://127.0.0.1:"),
        )

    async def get(self, path: str) -> Any:
        """
        Raises:
            Refused, httpx.HTTPError
        """
        return _read(await self._http.get(path))

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """
        Raises:
            Refused, httpx.HTTPError
        """
        return _read(await self._http.post(path, content=json.dumps(body), headers=_JSON))

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The events of one answer.

        Raises:
            Refused, httpx.HTTPError
        """
        request = self._http.stream("POST", path, content=json.dumps(body), headers=_JSON)
        async with request as response:
            if not response.is_success:
                await response.aread()
                _read(response)
            left = b""
            async for piece in response.aiter_raw():
                *events, left = (left + piece).split(b"\n\n")
                for event in events:
                    data = event.removeprefix(_DATA)
                    if data != _DONE:
                        yield json.loads(data)

    async def is_up(self) -> bool:
        """Does the server take requests?"""
        try:
            return (await self._http.get("/health", timeout=_CONNECT)).is_success
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        await self._http.aclose()


_JSON = {"Content-Type": "application/json"}


def _read(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json() if response.headers.get("content-type") == "application/json" else None
    raise Refused(" ".join(_message(response).split())[:500] or f"HTTP {response.status_code}")


def _message(response: httpx.Response) -> str:
    """SGLang's routes tell an error in several ways."""
    try:
        told: Any = response.json()
    except ValueError:
        return response.text
    for name in ("error", "error_message", "message", "detail"):
        if isinstance(told, dict):
            told = cast("dict[str, Any]", told).get(name, told)  # pyright: ignore[reportUnknownVariableType]
    return str(told)  # pyright: ignore[reportUnknownArgumentType]
