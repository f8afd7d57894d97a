"""What an engine runs on: the threads and child processes of this process, to see what is left and to kill it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

RELEASE_BOUND = 1.0
"""Seconds within which the slot of a request that was left is free."""

DEATH_BOUND = 2.0
"""Seconds within which everybody who waits for an engine that died is told."""

_PATIENCE = 30.0
_NOT_THE_ENGINES = ("engineroom-loop", "asyncio_")
_PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that Python starts once and keeps to its exit, whoever asked first."""


def until(condition: Callable[[], bool], within: float = _PATIENCE, what: str = "") -> float:
    """Waits for the condition and returns the seconds that it took.

    Raises:
        AssertionError: it did not come true in time.
    """
    began = time.monotonic()
    pause = threading.Event()
    while not condition():
        assert time.monotonic() - began <= within, f"not within {within:g} s: {what or condition}"
        pause.wait(0.001)
    return time.monotonic() - began


@dataclass(frozen=True)
class Machinery:
    """The threads and processes that there are at one time."""

    threads: frozenset[threading.Thread] = field(default_factory=lambda: frozenset(threading.enumerate()))
    processes: frozenset[int] = field(default_factory=lambda: frozenset(_descendants()))

    def new_threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self.threads]

    def new_processes(self) -> list[int]:
        return [pid for pid in _descendants() if pid not in self.processes]

    def assert_nothing_left(self) -> None:
        """Whatever was started since then has ended."""
        until(lambda: not self.new_processes(), what=f"processes {self.new_processes()} end")
        for thread in self.new_threads():
            thread.join(_PATIENCE)
        left = [thread.name for thread in self.new_threads()]
        assert not left, f"threads left: {', '.join(left)}"

    def since(self) -> Parts:
        """What was started since then, to be killed."""
        threads = [t for t in self.new_threads() if not t.name.startswith(_NOT_THE_ENGINES)]
        return Parts(tuple(threads), tuple(self.new_processes()))


@dataclass(frozen=True)
class Parts:
    """The threads and child processes of one engine."""

    threads: tuple[threading.Thread, ...]
    processes: tuple[int, ...]

    def kill(self) -> None:
        """Kills the child processes; of an engine without any, the threads."""
        for pid in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.processes:
            return
        assert self.threads, "the engine has neither child processes nor threads to kill; override kill()"
        for thread in self.threads:
            if thread.ident is not None:
                _raise_in(thread.ident, SystemExit)


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """https://docs.python.org/3/c-api/threads.html: PyThreadState_SetAsyncExc."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _descendants() -> list[int]:
    """Living processes below this one. Empty where there is no /proc: there only threads are looked at."""
    parents = {pid: parent for pid, parent, living in _processes() if living}
    found: list[int] = []
    level = {os.getpid()}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += [pid for pid in level if not _is_pythons_own(pid)]
    return found


def _processes() -> list[tuple[int, int, bool]]:
    """(id, parent's id, is it more than a zombie) of every process."""
    found: list[tuple[int, int, bool]] = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # proc(5): pid (command) state ppid …; a command may hold spaces and brackets
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            found.append((int(file.parent.name), int(parent), state not in "ZX"))
    return found


def _is_pythons_own(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return True  # it has just gone
    return any(name in command for name in _PYTHONS_OWN)
