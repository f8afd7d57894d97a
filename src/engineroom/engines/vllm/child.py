"""The engine's process, from its first moment. Imports neither vLLM nor torch: it runs before they do.

A spawned Python runs the caller's ``__main__`` again, writes on the caller's terminal, and gets its Ctrl-C. None of
the three may happen to somebody who made a model in a script, a notebook or a terminal session.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from multiprocessing import connection, parent_process, spawn
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

_GRACE = 5.0
"""Seconds that an engine whose parent is gone has for its own way of stopping."""


class EngineProcess(SpawnProcess):
    """A process whose output goes to a file, apart from the terminal, without the caller's ``__main__``."""

    def __init__(
        self,
        log: Path,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._settled = _Settled(log)  # before all else, so that it is unpickled before vLLM is imported
        super().__init__(target=target, name=name, args=args, kwargs=kwargs or {}, daemon=daemon)

    def run(self) -> None:
        threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()
        try:
            super().run()
        finally:
            gc.freeze()  # else the interpreter's end looks through all of torch and vLLM: three seconds

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's own name  # noqa: N802
        with _without_main():
            return SpawnProcess._Popen(process_obj)  # pyright: ignore


class _Settled:
    """Unpickling it settles the process that does so."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __reduce__(self) -> tuple[Callable[[Path], _Settled], tuple[Path]]:
        return _settle, (self._log,)


def _settle(log: Path) -> _Settled:
    """Sends output to the log, and leaves the terminal's process group."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return _Settled(log)


def _follow_parent() -> None:
    """Ends this process when its parent is gone, however that went."""
    parent = parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE)
    os._exit(1)


_preparing = threading.Lock()


@contextmanager
def _without_main() -> Generator[None, None, None]:
    """What is spawned meanwhile does not import the caller's ``__main__``: vLLM needs nothing from it."""

    def prepared(name: str) -> dict[str, Any]:
        data = original(name)
        return {key: value for key, value in data.items() if not key.startswith("init_main_from")}

    with _preparing:
        original = spawn.get_preparation_data
        spawn.get_preparation_data = prepared
        try:
            yield
        finally:
            spawn.get_preparation_data = original
