"""Every request that is being served, from its first byte to the last of its answer.

A ticket is how the rest of the server reaches a running request: to end it when its client leaves, when it reads too
slowly, or when the server stops; to log it, and to count it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engineroom.errors import EngineNotReadyError, EngineroomError, GenerationError
from engineroom.server.errors import INTERNAL, WIRE_NAMES, ClientLeftError, Refusal, refusal_of
from engineroom.server.http import header, path_of, send_refusal, speaks_anthropic
from engineroom.server.pace import Pace
from engineroom.server.spans import spans_if_configured

T = TypeVar("T")

log = logging.getLogger("engineroom.server")

_MAX_ID = 128
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class Buckets:
    """A histogram that costs a stream next to nothing for each token."""

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Stream(Protocol):
    async def keep_alive(self) -> None:
        """Shows whoever waits that the answer is being worked at."""
        ...


@dataclass(eq=False, slots=True)
class Ticket:
    """One request.

    Attributes:
        send: straight to the connection. The layers between have nothing to say about a body's pieces, and each would
            cost a stream some time for every token.
        sending_since: when the piece was handed over that the client has not taken yet; 0 if there is none.
        last_sent: when the last piece went out.
        stream: the streamed answer, while there is one.
        accepted: nothing is left that could be refused: from now on a stream may begin.
        subject: the field of its body that holds what is answered.
        names: our parameters that have another name in its body.
        error: the code of the error that it ended with.
        ended_by: why the server ended it; its client gets this error.
        uses: the model that answers it.
        answer_id, finish_reasons: what its answer was called, and how each of its choices ended.
        first_sent: seconds to the first piece of a stream.
        over: set at its end, if somebody waits for that.
    """

    id: str
    method: str
    path: str
    send: Send
    tickets: Tickets = field(repr=False)
    began: float = field(default_factory=time.monotonic)
    task: asyncio.Task[Any] | None = None
    route: str = "other"
    subject: str = "messages"
    names: Mapping[str, str] = field(default_factory=lambda: WIRE_NAMES)
    status: int = 0
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    sending_since: float = 0.0
    last_sent: float = 0.0
    left: bool = False
    stream: Stream | None = None
    accepted: bool = False
    transport: asyncio.Transport | None = field(default=None, repr=False)
    ended_by: EngineroomError | None = None
    uses: object = field(default=None, repr=False)
    over: asyncio.Event | None = None
    answer_id: str = ""
    finish_reasons: list[str] = field(default_factory=list[str])
    first_sent: float = 0.0

    @property
    def created(self) -> int:
        return int(time.time())

    def accept(self) -> None:
        self.accepted = True

    def end(self, error: EngineroomError) -> None:
        """Ends the request with an error."""
        if self.ended_by is None and not self.left and self.task is not None and self.task.cancel():
            self.ended_by = error

    def leave(self) -> None:
        """Ends it for nobody: the client has gone, or does not read."""
        if not self.left and self.task is not None and self.task.cancel():  # not where it has ended already
            self.left = True

    def cut(self) -> None:
        """Leaves a client that does not read: its connection would wait for ever to get rid of what it has."""
        self.leave()
        if self.transport is not None:
            self.transport.abort()

    def told(self, error: EngineroomError) -> Refusal:
        """What its client is to know of an error, in the words of its body."""
        return refusal_of(error, self.names, self.subject)

    def counted(
        self, prompt_tokens: int, completion_tokens: int, finish_reasons: Iterable[str | None] = ()
    ) -> None:
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.finish_reasons += filter(None, finish_reasons)

    async def attend(self, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
        """Awaits, and ends what it awaits if the client leaves or the server stops.

        The work is a task of its own: what is resumed for each token of a stream is then as deep as the answer, without
        all the layers between the connection and here.

        Raises:
            ClientLeftError: the client left.
            EngineroomError: the server ended the request.
        """
        self.task = asyncio.create_task(work)
        watch = asyncio.create_task(self._watch(receive))
        try:
            return await self.task
        except asyncio.CancelledError:
            self.explain()
            raise
        finally:
            watch.cancel()
            self.task = None

    def explain(self) -> None:
        """Called for a cancellation: raises what stands behind it, if this ticket knows.

        Raises:
            ClientLeftError, EngineroomError: as ``attend``.
        """
        task = asyncio.current_task()
        if task is not None and (self.left or self.ended_by is not None):
            task.uncancel()
        if self.left:
            raise ClientLeftError from None
        if self.ended_by is not None:
            raise self.ended_by from None
        if task is not None and not task.cancelling():
            raise abandoned()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.leave()


class Totals:
    """What was served so far.

    Attributes:
        requests: (route, status) → how many. Paths that are no route are one.
        errors: an error's code → how many.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.errors: Counter[str] = Counter()
        self.left = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.seconds = Buckets(*_SECONDS, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

    def add(self, ticket: Ticket) -> None:
        self.requests[ticket.route, ticket.status] += 1
        if ticket.error:
            self.errors[ticket.error] += 1
        self.left += ticket.left
        self.prompt_tokens += ticket.prompt_tokens
        self.completion_tokens += ticket.completion_tokens
        self.seconds.observe(time.monotonic() - ticket.began)


class Tickets:
    """Those that are being served now. On one event loop.

    Attributes:
        first_token: seconds from a request's beginning to the first event of its stream.
        gaps: seconds between what is sent of a stream: an event, or several where the server is behind.
        pace: when streams send.
        stopping: no new request is served.
    """

    def __init__(self) -> None:
        self.first_token = Buckets(*_SECONDS, 10.0, 30.0, 60.0, 120.0)
        self.gaps = Buckets(*_SECONDS)
        self.pace = Pace()
        self.live: dict[str, Ticket] = {}
        self.stopping = False
        self.totals = Totals()
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self, ticket: Ticket) -> None:
        self.live[ticket.id] = ticket
        self._empty.clear()

    def close(self, ticket: Ticket) -> None:
        del self.live[ticket.id]
        if not self.live:
            self._empty.set()
        if ticket.over is not None:
            ticket.over.set()
        self.totals.add(ticket)

    def of(self, model: object) -> list[Ticket]:
        """Those that are answered by this model."""
        return [ticket for ticket in self.live.values() if ticket.uses is model]

    async def ended(self, tickets: Sequence[Ticket], seconds: float) -> bool:
        """Waits until these have ended, and no longer than so many seconds. Have they?"""
        for ticket in tickets:
            if ticket.over is None:
                ticket.over = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                for ticket in tickets:
                    if ticket.over is not None:
                        await ticket.over.wait()
        except TimeoutError:
            return False
        return True

    async def emptied(self) -> None:
        await self._empty.wait()


class TicketMiddleware:
    """Gives each request a ticket, tells its id in ``x-request-id``, logs its end, and lets no exception through."""

    def __init__(self, app: ASGIApp, tickets: Tickets) -> None:
        self._app = app
        self._tickets = tickets
        self._spans = spans_if_configured()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ticket = Ticket(_new_id(), scope["method"], path_of(scope), send, self._tickets)
        refused = self._name(ticket, header(scope, b"x-request-id"))
        names = (b"x-request-id", b"request-id") if speaks_anthropic(scope) else (b"x-request-id",)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                ticket.status = message["status"]
                ids = [(name, ticket.id.encode()) for name in names]
                message["headers"] = [*message.get("headers", []), *ids]
            await send(message)

        if refused is not None:
            await send_refusal(refused, scope, tell)
            return
        state = scope.setdefault("state", {})
        state["ticket"] = ticket
        ticket.transport = state.get("transport")
        self._tickets.open(ticket)
        with self._spans.around(scope, ticket) if self._spans else contextlib.nullcontext():
            await self._serve(scope, receive, tell, ticket)

    async def _serve(self, scope: Scope, receive: Receive, tell: Send, ticket: Ticket) -> None:
        try:
            await self._app(scope, receive, tell)
        except ClientLeftError:
            ticket.left = True
        except asyncio.CancelledError:
            with contextlib.suppress(ClientLeftError, EngineroomError):
                ticket.explain()
                raise
        except Exception:
            log.exception("request %s failed", ticket.id)
            if not ticket.status:
                ticket.error = INTERNAL.code or ""
                await send_refusal(INTERNAL, scope, tell)
        finally:
            ticket.route = getattr(scope.get("route"), "path", ticket.route)
            self._tickets.close(ticket)
            _log_end(ticket)

    def _name(self, ticket: Ticket, given: bytes | None) -> Refusal | None:
        """Takes the client's id for the request, or tells why it can't."""
        if given is not None:
            name = given.decode("latin-1")
            if not (0 < len(name) <= _MAX_ID and name.isascii() and name.isprintable()):
                what = f"x-request-id must be 1 to {_MAX_ID} printable ASCII characters"
                return Refusal(400, what, code="invalid_request_id", param="x-request-id")
            if name in self._tickets.live:
                what = "a request with this x-request-id is being served"
                return Refusal(400, what, code="duplicate_request_id", param="x-request-id")
            ticket.id = name
        if self._tickets.stopping:
            what = "the server is stopping"
            return Refusal(
                503,
                what,
                type="server_error",
                code="stopping",
                headers={"Retry-After": "5", "Connection": "close"},
            )
        return None


def ticket_of(request: Request) -> Ticket:
    return request.scope["state"]["ticket"]


def server_stopped() -> EngineroomError:
    return EngineNotReadyError("the server is stopping", fix="send the request again in a while")


def abandoned() -> EngineroomError:
    """A cancellation that came out of the engine: nobody here asked for it."""
    return GenerationError("the engine abandoned this request")


def _new_id() -> str:
    return uuid.uuid4().hex


def _log_end(ticket: Ticket) -> None:
    log.info(
        "request",
        extra={
            "request": ticket.id,
            "method": ticket.method,
            "path": ticket.path,
            "status": ticket.status,
            "seconds": round(time.monotonic() - ticket.began, 4),
            "model": ticket.model,
            "prompt_tokens": ticket.prompt_tokens,
            "completion_tokens": ticket.completion_tokens,
            "left": ticket.left,
            "error": ticket.error,  # that of a stream has no status
        },
    )
