"""One connection, as uvicorn's httptools protocol has it, and what we want of it besides."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engineroom.server.errors import Refusal

_LINGER = 1.0
_REASONS = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}


class Connection(HttpToolsProtocol):
    """Bounds a request's header, in bytes and in time, and answers what is not HTTP in the shape of all errors here.

    Attributes:
        max_header: bytes; of what stands around the pieces of a chunked body, too.
        read_timeout: seconds from a connection's or a request's beginning to the end of its header.
    """

    max_header = 32_768
    read_timeout = 60.0

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._overhead = 0
        self._in_header = self._moved = False
        self._refused = False
        self._too_slow: asyncio.TimerHandle | None = None

    @classmethod
    def limited(cls, max_header: int, read_timeout: float) -> type[Connection]:
        return type(cls.__name__, (cls,), {"max_header": max_header, "read_timeout": read_timeout})

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._moved = False
        super().data_received(data)
        self._overhead = 0 if self._moved else self._overhead + len(data)
        if self._overhead > self.max_header and not self._refused:
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._await_header()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # One behind a chunked body would pass for one that the layers around the routes have seen.
        if self._in_header:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > self.max_header:
            self._overhead = self.max_header + 1
            raise ValueError("the header is too large")  # httptools makes an error of its own of it
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise ValueError("two hosts")  # of which a proxy may have read the other one: RFC 9112, 3.2
        self._header_came()
        self.scope.setdefault("state", {})["transport"] = self.transport
        super().on_headers_complete()
        self._moved = True

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._moved = True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._moved = True

    def _await_header(self) -> None:
        self._header_came()
        self._in_header = True
        self._too_slow = self.loop.call_later(self.read_timeout, self.transport.abort)

    def _header_came(self) -> None:
        self._in_header = False
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def send_400_response(self, msg: str) -> None:
        refusal = (
            Refusal(431, "the request's header is too large", code="header_too_large")
            if self._overhead > self.max_header
            else Refusal(400, "this is not HTTP", code="invalid_http")
        )
        body = refusal.encoded()
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (refusal.status, _REASONS[refusal.status], len(body)) + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # A connection that is closed while its client still sends is reset, and the client never reads the answer.
        self._refused = True
        self.loop.call_later(_LINGER, self.transport.close)
