"""Where vLLM's words go: a file, which an error names and quotes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path

LOG_VARIABLE = "ENGINEROOM_VLLM_LOG"
"""A file to keep vLLM's log in. Without it there is a temporary one, which a clean end removes."""

_READ = 4 << 20
_EXCEPTION = re.compile(
    r"(?:^|\s)(?P<error>(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:Group)?: \S.*?)\s*$"
)
_NOT_THE_CAUSE = (
    "Engine core initialization failed",
    "EngineCore encountered an issue",
    "WorkerProc initialization",
)
"""vLLM's exceptions that only say that there was another."""


class EngineLog:
    """One engine's log: the engine process writes into it from outside, this process through ``STREAM``."""

    def __init__(self) -> None:
        self._named = os.environ.get(LOG_VARIABLE)

    @cached_property
    def path(self) -> Path:
        """The file, made when first asked for: an engine that never starts leaves none."""
        if self._named:
            path = Path(self._named).expanduser().absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        descriptor, name = tempfile.mkstemp(prefix="engineroom-vllm-", suffix=".log")
        os.close(descriptor)
        return Path(name)

    def write(self, text: str) -> None:
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def last_words(self) -> str:
        """The engine's own first exception; without one, its last line; empty if it said nothing."""
        try:
            with self.path.open("rb") as file:
                lines = file.read(_READ).decode("utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return first_exception(lines) or next((line.strip() for line in reversed(lines) if line.strip()), "")

    def discard(self) -> None:
        """Removes the file, unless the user asked for it by name."""
        if not self._named and "path" in self.__dict__:
            self.path.unlink(missing_ok=True)


def first_exception(lines: list[str]) -> str:
    """The first exception that tells a cause, as Python prints it under a traceback; empty if there is none."""
    for line in lines:
        match = _EXCEPTION.search(line)
        if match and not any(text in line for text in _NOT_THE_CAUSE):
            return match["error"]
    return ""


class LogStream:
    """What ``VLLM_LOGGING_STREAM`` names. In the engine's process, where nobody sets ``log``, it is the output."""

    def __init__(self) -> None:
        self.log: EngineLog | None = None

    def write(self, text: str) -> int:
        if self.log is not None:
            self.log.write(text)
        else:
            sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        if self.log is None:
            sys.stdout.flush()


STREAM = LogStream()
"""This process's side. vLLM has one logger for all engines of a process; the newest engine's log gets its lines."""

STREAM_NAME = f"ext://{__name__}.STREAM"
