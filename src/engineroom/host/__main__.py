"""``python -m engineroom.host DESCRIPTOR``: serves one engine on an inherited socket, and ends with its parent."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

from engineroom.engines.hosted.wire import Connection
from engineroom.host.server import Server

_GRACE = 5.0
"""Seconds that an engine whose parent is gone has for its own way of stopping."""

_FOLLOW = 0.25


async def serve(wire: socket.socket) -> None:
    server = Server()
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    connection = Connection(server.take, lambda _: gone.set())
    server.connection = connection
    await loop.create_unix_connection(lambda: connection, sock=wire)
    threading.Thread(target=_follow_parent, args=(os.getppid(), loop, gone), daemon=True).start()
    watching = asyncio.create_task(server.watch())
    await gone.wait()
    _end_anyway()
    watching.cancel()
    await server.close()


def _follow_parent(parent: int, loop: asyncio.AbstractEventLoop, gone: asyncio.Event) -> None:
    """The wire tells of the parent's end too, unless a forked copy of it holds the other side open."""
    while os.getppid() == parent:
        threading.Event().wait(_FOLLOW)
    _end_anyway()
    loop.call_soon_threadsafe(gone.set)


def _end_anyway() -> None:
    """Ends this process in a few seconds, whatever hangs in it. What it has started follows it."""
    timer = threading.Timer(_GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()


def main() -> None:
    wire = socket.socket(fileno=int(sys.argv[1]))
    wire.set_inheritable(False)
    asyncio.run(serve(wire))
    sys.stdout.flush()
    os._exit(0)  # the engine is closed; an interpreter with torch in it takes seconds to clear itself away


if __name__ == "__main__":
    main()
