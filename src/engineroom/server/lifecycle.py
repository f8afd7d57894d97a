"""The server on its port: it listens while the model loads, watches its streams, and stops when it is told to.

Stopping: no new connection and no new request, ``/ready`` says no, answers in progress go on. Those that have not ended
after ``shutdown_timeout`` end with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from typing import Any

import uvicorn
from fastapi import FastAPI

from engineroom.errors import ArgumentError
from engineroom.server.connection import Connection
from engineroom.server.service import Service
from engineroom.server.settings import ServerSettings
from engineroom.server.tickets import Tickets, log, server_stopped

_WATCH_EVERY = 1.0
_SILENCE = 10.0
"""Seconds without a byte after which a stream shows that it lives, once its request was accepted: until then an error has a
status of its own."""

_BACKLOG = 4096
_LAST_WORDS = 2.0
"""Seconds that aborted requests have to tell their clients so, and clients to take the end of an answer."""


class RunningServer:
    """An app on a port.

    Raises:
        ArgumentError: the port can't be had, or the certificate not read. Nothing was started.
    """

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        self.settings = settings
        self.service: Service = app.state.service
        self._socket = _bound(settings)
        try:
            self._uvicorn = _Uvicorn(_config(app, settings))
        except BaseException:
            self._socket.close()
            raise
        self._stop = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens, for a client on this machine."""
        host: str
        port: int
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"{self.settings.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def serve(self) -> None:
        """Serves until ``stop``, and returns when the last request has ended."""
        watch = asyncio.create_task(_watch(self.service.tickets, self.settings.write_timeout))
        stopping = asyncio.create_task(self._stopped())
        try:
            await self._uvicorn.serve([self._socket])
        finally:
            for task in (watch, stopping):
                task.cancel()
            await asyncio.gather(watch, stopping, return_exceptions=True)
            for listener in getattr(self._uvicorn, "servers", ()):  # open still, if this was cancelled
                listener.close()
            self._socket.close()
            await self.service.switcher.stop()

    def stop(self) -> None:
        """Begins to stop; called again, stops at once. On the server's loop."""
        waits = len(self.service.tickets.live)
        if self._stop.is_set():
            self._abort()
        elif waits:
            seconds = self.settings.shutdown_timeout
            log.info(
                "stopping: requests may end; again: at once", extra={"requests": waits, "seconds": seconds}
            )
        self._stop.set()

    async def _stopped(self) -> None:
        await self._stop.wait()
        tickets = self.service.tickets
        tickets.stopping = True
        self._uvicorn.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_timeout):
                await tickets.emptied()
        self._abort()
        await asyncio.sleep(_LAST_WORDS)
        self._hang_up()

    def _abort(self) -> None:
        for ticket in list(self.service.tickets.live.values()):
            ticket.end(server_stopped())

    def _hang_up(self) -> None:
        """Over TLS, asyncio waits half a minute for a goodbye, and a client that keeps an idle connection sends none."""
        for connection in list(self._uvicorn.server_state.connections):
            if connection.transport.get_extra_info("ssl_object") is not None:
                connection.transport.abort()


class _Uvicorn(uvicorn.Server):
    """Signals are the command's; a server in a program of somebody else's has no business with them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def _watch(tickets: Tickets, write_timeout: float) -> None:
    """Keeps silent streams alive, and leaves clients that don't read."""
    tasks: set[asyncio.Task[None]] = set()
    while True:
        await asyncio.sleep(_WATCH_EVERY)
        now = time.monotonic()
        for ticket in list(tickets.live.values()):
            if ticket.sending_since:
                if now - ticket.sending_since > write_timeout:
                    log.warning("request %s: its client does not read", ticket.id)
                    ticket.cut()
            elif ticket.stream and ticket.accepted and now - (ticket.last_sent or ticket.began) > _SILENCE:
                task = asyncio.create_task(ticket.stream.keep_alive())
                tasks.add(task)
                task.add_done_callback(tasks.discard)


def _bound(settings: ServerSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends small pieces at once (TCP_NODELAY) only where the socket says that it is TCP's; else the body of
        # an answer waits for the acknowledgement of its head, which Linux delays by 40 ms.
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ArgumentError(
            f"host={settings.host!r} is no address of this machine", why=str(error), argument="host"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # from now on a client waits instead of being refused
    except OSError as error:
        bound.close()
        raise ArgumentError(
            f"can't listen on {settings.host}:{settings.port}",
            why=error.strerror or str(error),
            fix="give an address of this machine"
            if error.errno == errno.EADDRNOTAVAIL
            else "choose another --port, or stop what listens there",
            argument="host" if error.errno == errno.EADDRNOTAVAIL else "port",
        ) from error
    bound.setblocking(False)
    return bound


def _config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Connection.limited(settings.max_header, settings.read_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        root_path="",
        timeout_graceful_shutdown=round(settings.shutdown_timeout + _LAST_WORDS),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        backlog=_BACKLOG,
    )
    try:
        if settings.ssl_certfile is not None:
            # uvicorn would ask the terminal for an encrypted key's pass phrase, and wait there for ever.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ArgumentError(
            "the TLS certificate can't be used",
            why=f"{type(error).__name__}: {error}",
            fix="check ssl_certfile and ssl_keyfile: PEM files that belong together, the key not encrypted",
            argument="ssl_certfile",
        ) from error
    return config
