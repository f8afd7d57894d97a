"""Messages between two processes: each is a JSON value behind its length (four bytes, the highest first).

JSON and not pickle: the two environments hold other versions of everything, and a value that can't be read is refused
by name instead of running code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

MAX_MESSAGE = 256 << 20
"""Bytes; the log-probabilities of a very long prompt are some tens of millions."""

_LENGTH = 4


class ProtocolError(ValueError):
    """What came over the wire is no message."""


def encode(message: Any) -> bytes:
    """
    Raises:
        ProtocolError: it is longer than a message may be.
    """
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"a message has {len(body):,} bytes, and may have {MAX_MESSAGE:,}")
    return len(body).to_bytes(_LENGTH, "big") + body


class Decoder:
    """Bytes in whatever portions, whole messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """
        Raises:
            ProtocolError: a length is too large, or a body is not JSON.
        """
        self._buffer += data
        messages: list[Any] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH:
            size = int.from_bytes(self._buffer[start : start + _LENGTH], "big")
            if size > MAX_MESSAGE:
                raise ProtocolError(f"a message claims {size:,} bytes, and may have {MAX_MESSAGE:,}")
            body = start + _LENGTH
            if len(self._buffer) - body < size:
                break
            messages.append(_parse(self._buffer[body : body + size]))
            start = body + size
        del self._buffer[:start]
        return messages


def _parse(body: bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is not JSON: {error}") from error


class Connection(asyncio.Protocol):
    """One end of the wire, on one event loop. What is sent during one turn of the loop leaves in one write.

    Args:
        take: gets each message; a :class:`ProtocolError` from it ends the connection.
        lost: called once, when there is nobody at the other end any more; with the reason, if there is one.
    """

    def __init__(self, take: Callable[[Any], None], lost: Callable[[Exception | None], None]) -> None:
        self._take = take
        self._lost = lost
        self._decoder = Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._pending: list[bytes] = []
        self._paused = False
        self._reason: Exception | None = None

    def send(self, message: Any) -> None:
        """Never waits; to a lost connection it sends nothing.

        Raises:
            ProtocolError: the message is too long.
        """
        if self._transport is None:
            return
        self._pending.append(encode(message))
        if len(self._pending) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """Sends what is pending, and hangs up."""
        if self._transport is not None:
            self._paused = False
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Hangs up, whatever is pending."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._pending and not self._paused and self._transport is not None:
            self._transport.write(b"".join(self._pending))
            self._pending.clear()

    # --- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._take(message)
        except ProtocolError as error:
            self._reason = error
            self.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pending.clear()
        self._lost(self._reason or exc)
