"""A streamed answer: server-sent events, written as bytes as soon as they are there.

sse-starlette's response starts four tasks for a stream and hands each event through several; here is one task for the
answer, and one that waits for the client to leave. A watch over all streams (``lifecycle``) keeps silent ones alive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engineroom.errors import EngineroomError
from engineroom.server.encoding import compact
from engineroom.server.errors import INTERNAL, OF_NO_CONCERN, ClientLeftError, Refusal
from engineroom.server.pace import HELD
from engineroom.server.tickets import Ticket, abandoned
from engineroom.types import Delta

log = logging.getLogger("engineroom.server")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def typed_event(name: str, body: Any) -> bytes:
    """An event that tells its type outside of its data, too."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), compact(body))


async def written(
    deltas: AsyncGenerator[Delta, None],
    write: Callable[[Delta], bytes],
    ticket: Ticket,
    *,
    per_prompt: int | None = None,
    end: Callable[[], bytes] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The events of an answer's pieces, counted on its ticket piece by piece: some answers are broken off.

    Args:
        write: makes the events of a piece; nothing where it has none.
        per_prompt: answers to one prompt, which count it once; None is all of them.
        end: the last event.
    """
    async with aclosing(deltas):
        async for delta in deltas:
            ticket.completion_tokens += len(delta.token_ids)
            if (known := delta.prompt_usage) is not None:
                first = (delta.index if per_prompt is None else delta.index % per_prompt) == 0
                ticket.prompt_tokens += known.prompt_tokens if first else 0
            if delta.finish_reason is not None:
                ticket.finish_reasons.append(delta.finish_reason)
            if data := write(delta):
                yield data
    if end is not None:
        yield end()


def _piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


class StreamForm(Protocol):
    """What the server itself says in a stream, in its protocol's words."""

    @property
    def keep_alive(self) -> bytes:
        """What shows that the answer is still being worked at."""
        ...

    def failed(self, refusal: Refusal) -> bytes:
        """How a stream ends that fails on its way."""
        ...


class ChatForm:
    """Chat's and completions': comments, and one error before the end."""

    keep_alive = KEEP_ALIVE

    def failed(self, refusal: Refusal) -> bytes:
        return event(refusal.encoded()) + DONE


class EventStream(Response):
    """Sends the events of an async generator.

    An error before the stream began is raised, for the app to answer with its status. One after it becomes an event.

    Args:
        events: gives whole events, the last one, too; closed when the client leaves.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], ticket: Ticket, form: StreamForm | None = None
    ) -> None:
        super().__init__()
        self._form = form or ChatForm()
        self._events = events
        self._ticket = ticket
        self._pace = ticket.tickets.pace
        self._send: Send | None = None
        self._began = False
        self._sent = 0.0  # when its last events were
        self._held = b""
        self._flushing: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._ticket.stream = self
        try:
            async with aclosing(self._events):
                await self._ticket.attend(receive, self._run())
        except ClientLeftError:
            if not self._began:  # Starlette takes an exception behind a response's beginning for a defect
                raise
        finally:
            self._ticket.stream = None
            self._taken()

    async def keep_alive(self) -> None:
        """Shows whoever waits, and the proxies between, that the answer is still being worked at."""
        if not self._began:
            await self._begin()
        self._ticket.last_sent = time.monotonic()
        await self._ticket.send(_piece(self._form.keep_alive))

    async def _begin(self) -> None:
        assert self._send is not None
        self._began = True
        await self._send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})

    async def _run(self) -> None:
        end = b""
        try:
            await self._forward()
        except (EngineroomError, asyncio.CancelledError, Exception) as error:
            if not self._began:
                raise
            end = self._form.failed(self._refusal(error))
        await self._finish(end)

    async def _forward(self) -> None:
        """Each event at once; where the server is behind, with those that come soon after."""
        ticket, pace = self._ticket, self._pace
        async for data in self._events:
            if not self._began:
                await self._begin()
            if not self._sent:
                ticket.first_sent = time.monotonic() - ticket.began
                ticket.tickets.first_token.observe(ticket.first_sent)
            elif pace.behind and time.monotonic() < self.due:
                self._held += data
                pace.hold(self)
                continue
            await self._turn()
            await self._send_events(self._taken() + data)

    @property
    def due(self) -> float:
        return self._sent + HELD

    async def flush(self) -> None:
        await self._turn()
        if not self._held:
            return
        flushed = self._flushing = asyncio.Event()
        try:
            await self._send_events(self._taken())
        finally:
            self._flushing = None
            flushed.set()

    def _taken(self) -> bytes:
        """What was held; the caller sends it now."""
        if not self._held:
            return b""
        held, self._held = self._held, b""
        self._pace.release(self)
        return held

    async def _turn(self) -> None:
        """What was held goes first."""
        while self._flushing is not None:
            await self._flushing.wait()

    async def _send_events(self, data: bytes) -> None:
        ticket = self._ticket
        began = ticket.sending_since = ticket.last_sent = time.monotonic()
        if self._sent:
            ticket.tickets.gaps.observe(began - self._sent)
        self._sent = began
        await ticket.send(_piece(data))
        ticket.sending_since = 0.0
        self._pace.sent(began, time.monotonic())

    def _refusal(self, error: BaseException) -> Refusal:
        """What to tell in the stream of an error that ended it.

        Raises:
            BaseException: the error, if there is nobody to tell.
        """
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if self._ticket.ended_by is None and task is not None and task.cancelling():
                raise error
            refusal = self._ticket.told(self._ticket.ended_by or abandoned())
        elif isinstance(error, EngineroomError):
            refusal = self._ticket.told(error)
        else:
            refusal = INTERNAL
        ordinary = self._ticket.ended_by is not None or isinstance(error, OF_NO_CONCERN)
        if refusal.status >= 500 and not ordinary:
            log.error("the stream of request %s failed", self._ticket.id, exc_info=error)
        self._ticket.error = refusal.code or ""
        return refusal

    async def _finish(self, data: bytes) -> None:
        await self._turn()
        body = self._taken() + data
        await self._ticket.send(_piece(body, more=False))
