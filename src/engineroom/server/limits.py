"""How much a request may send: bytes, depth of its JSON, and the time that it takes."""

from __future__ import annotations

import asyncio
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engineroom.server.errors import ClientLeftError, Refusal
from engineroom.server.http import header, send_refusal
from engineroom.server.tickets import log

_LOGGED = 10_000
"""Bytes of a body that go into the log, if any do."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


class BodyMiddleware:
    """Reads the whole body, within limits, before anything else sees the request."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, max_depth: int, timeout: float, log_bodies: bool = False
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._timeout = timeout
        self._log_bodies = log_bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._read(scope, receive)
        except TimeoutError:
            body = Refusal(
                408, f"the request was not sent within {self._timeout:g} seconds", code="slow_body"
            )
        if isinstance(body, Refusal):
            await send_refusal(body, scope, send)
            return
        if self._log_bodies:
            shown = body[:_LOGGED].decode("utf-8", "replace")
            log.info("body", extra={"request": scope["state"]["ticket"].id, "body": shown})
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Refusal:
        encoding = header(scope, b"content-encoding")
        if encoding not in (None, b"identity"):
            return Refusal(415, "a request's body can't be compressed here", code="unsupported_encoding")
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_bytes:
            return self._too_large()
        pieces = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            pieces += message.get("body", b"")
            if len(pieces) > self._max_bytes:
                return self._too_large()
            if not message.get("more_body"):
                break
        body = bytes(pieces)
        if too_deep(body, self._max_depth):
            return Refusal(
                400, f"the body's JSON is nested more than {self._max_depth} deep", code="too_deeply_nested"
            )
        return body

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            f"the request's body is larger than {self._max_bytes / 2**20:g} MiB",
            code="body_too_large",
            headers={"Connection": "close"},  # the rest of it is on the way
        )


def too_deep(body: bytes, limit: int) -> bool:
    """Is this JSON nested deeper? Brackets within strings don't count."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for found in _STRUCTURE.finditer(body):
        mark = body[found.start()]
        if mark in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more; then whatever the connection says."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again
