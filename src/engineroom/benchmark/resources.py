"""Processor time and memory of a process and its descendants."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import psutil

from engineroom.errors import ArgumentError

_PAUSE = 0.2


class Family:
    """Watches a process and its descendants, from ``with`` on.

    The descendants are those at the beginning: to look for new ones all the time would cost more than it shows.

    Raises:
        ArgumentError: there is no such process, or it may not be looked at.

    Attributes:
        peak_memory: bytes of main memory, the resident sets summed up; what processes share counts for each of them.
            Looked at five times a second.
        cpu: seconds of processor time since the beginning, user and system.
    """

    def __init__(self, pid: int) -> None:
        try:
            root = psutil.Process(pid)
            self._members: list[Any] = [root, *root.children(recursive=True)]
            root.memory_info()
        except psutil.Error as error:
            raise ArgumentError(
                f"process {pid} can't be looked at", why=str(error), fix="check --pid"
            ) from error
        self.peak_memory = 0
        self.cpu = 0.0
        self._before = [_cpu(member) or 0.0 for member in self._members]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engineroom-memory", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        for member, before in zip(self._members, self._before, strict=True):
            now = _cpu(member)
            self.cpu += 0.0 if now is None else max(0.0, now - before)

    def _watch(self) -> None:
        while not self._ended.wait(_PAUSE):
            self._look()

    def _look(self) -> None:
        self.peak_memory = max(self.peak_memory, sum(map(_memory, self._members)))


def _memory(process: Any) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended
        return 0


def _cpu(process: Any) -> float | None:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return None
