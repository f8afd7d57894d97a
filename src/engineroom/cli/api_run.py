"""One run of the server: it listens, loads the model, greets, and ends on a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from engineroom.cli.console import print_json_line
from engineroom.cli.ending import silence
from engineroom.cli.greeting import greeting

if TYPE_CHECKING:
    from engineroom.bridge import Bridge
    from engineroom.config import Arguments
    from engineroom.server.lifecycle import RunningServer
    from engineroom.server.settings import ServerSettings


def serve(settings: ServerSettings, arguments: Arguments, *, as_json: bool) -> int:
    """Runs until it is told to end; returns the exit code.

    It listens first, so that a taken port is known before a model is loaded, and health answers meanwhile.
    """
    from engineroom.bridge import Bridge
    from engineroom.cli.loading import load_model, print_note
    from engineroom.server.app import create_app
    from engineroom.server.lifecycle import RunningServer
    from engineroom.server.logs import logs_to_stderr
    from engineroom.server.spans import export_spans

    with _lenient_stderr(), logs_to_stderr(settings):
        if note := export_spans():
            print_note(note)
        bridge = Bridge("engineroom-server")
        try:
            server = RunningServer(create_app(None, settings, bridge), settings)
            serving = bridge.submit(server.serve())
            with _signals(bridge, server), load_model(arguments, bridge) as model:
                server.service.loaded = model
                try:
                    _greet(server, as_json=as_json)
                    serving.result()
                finally:
                    server.service.loaded.close()  # another one than ``model``, if it was switched
        finally:
            bridge.close()
    return 0


class _Lenient:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _lenient_stderr() -> Generator[None, None, None]:
    """A full disk, or a pipe whose reader has gone, costs a server its log, and not its life."""
    stream = sys.stderr
    with redirect_stderr(cast("TextIO", _Lenient(stream))):
        yield
    try:
        stream.flush()
    except OSError:
        silence(stream)


def _greet(server: RunningServer, *, as_json: bool) -> None:
    service = server.service
    if as_json:
        try:
            print_json_line({"url": f"{server.url}/v1", "models": list(service.base_names)})
        except OSError:  # a full disk, or nobody reads it: it serves all the same
            silence(sys.stdout)
        return
    engine = service.model.engine
    told = greeting(
        server.url,
        service.base_names[0],
        keyed=bool(server.settings.keys),
        can_generate=engine.can_generate,
        can_embed=engine.can_embed,
    )
    print(told, file=sys.stderr, flush=True)


@contextmanager
def _signals(bridge: Bridge, server: RunningServer) -> Generator[None, None, None]:
    """The first SIGINT or SIGTERM lets answers end, the second does not. While the model loads, either ends it all."""

    def stop(number: int, frame: object) -> None:
        if server.service.loaded is None:
            raise KeyboardInterrupt
        bridge.call_soon(server.stop)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
