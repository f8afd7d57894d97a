"""How much a request may send: bytes, depth of its JSON, and the time that it takes."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engineroom.call import beside
from engineroom.server.bodies import LARGE
from engineroom.server.errors import ClientLeftError, Refusal
from engineroom.server.http import header, send_refusal
from engineroom.server.tickets import log

_LOGGED = 10_000
"""Bytes of a body that go into the log, if any do."""

_LINGER = 1.0
"""Seconds that a client may go on sending what is refused."""

_MAX_STRINGS = 150_000
_MAX_CONTAINERS = 100_000
_MAX_VALUES = 2**20
_MAX_ESCAPES = 3_000_000
"""What the JSON of a body may hold. A parser goes on without a pause, and while it does no stream gets a piece: so much of
each takes it 40 to 100 ms (``benchmarks/server_bodies.py``). A thousand prompts of a thousand token ids are within, and a
text of three million Chinese characters, each written as an escape."""

_TOO_MANY = Refusal(413, "the body's JSON holds too many values", code="too_many_values")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


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
            await _refuse(body, scope, receive, send)
            return
        refusal = await beside(partial(unfit, body, self._max_depth), len(body), most=LARGE)
        if refusal is not None:
            await send_refusal(refusal, scope, send)
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
        return bytes(pieces)

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            f"the request's body is larger than {self._max_bytes / 2**20:g} MiB",
            code="body_too_large",
            headers={"Connection": "close"},  # the rest of it is on the way
        )


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers, and only then lets go: a connection that is closed while its client still sends is reset, and the client
    never reads the answer."""

    async def hold(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while (await receive()).get("more_body"):
                        pass
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    await send_refusal(refusal, scope, hold)


def unfit(body: bytes, max_depth: int) -> Refusal | None:
    """Is this JSON too much to read in one go? Told from its bytes; what is within strings does not count.

    32 MiB can hold eleven million empty lists, which take the parser seconds and a gigabyte, and everybody else waits.
    """
    if b"\0" in body:  # the parser reads UTF-16, too, in which brackets can be hidden from what counts bytes
        what = "the body is not valid JSON: it is not UTF-8, in which JSON has no byte 0"
        return Refusal(400, what, code="invalid_json")
    if body.count(b"\\") > _MAX_ESCAPES:
        return _TOO_MANY
    opening, quotes = body.count(b"[") + body.count(b"{"), body.count(b'"')
    if opening <= max_depth and quotes <= 2 * _MAX_STRINGS and body.count(b",") <= _MAX_VALUES:
        return None  # even if none of them was within a string
    outside = _outside_strings(body)
    if outside is None or outside.count(b",") > _MAX_VALUES:
        return _TOO_MANY
    marks = outside.translate(None, _NO_BRACKETS)
    if len(marks) > 2 * _MAX_CONTAINERS:
        return _TOO_MANY
    if len(marks) > max_depth and _depth(marks) > max_depth:
        what = f"the body's JSON is nested more than {max_depth} deep"
        return Refusal(400, what, code="too_deeply_nested")
    return None


def _outside_strings(body: bytes) -> bytes | None:
    """The body without its strings; None if there are too many."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return None if plain.count(b'"') > 2 * _MAX_STRINGS else b"".join(plain.split(b'"')[::2])


def _depth(marks: bytes) -> int:
    depth = deepest = 0
    for mark in marks:
        depth += 1 if mark in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What was read, once more; then whatever the connection says."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again
