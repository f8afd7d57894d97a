"""Server-sent events out of the bytes of a connection (https://html.spec.whatwg.org/#event-stream-interpretation)."""

from __future__ import annotations

from engineroom.errors import ServerError

_LONGEST = 16 << 20
"""Bytes of one event; more than that is no answer."""


class EventReader:
    """Gives out the data of each event that is complete.

    Lines end with LF or CRLF only: libraries that split text at every Unicode line break tear apart an answer that
    has one in it, for JSON may hold U+2028 as it is.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """
        Raises:
            ServerError: an event does not end.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ServerError("the server's stream does not consist of events")
        events: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events
