"""Where an engine's words go: a file, which an error names and quotes."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

_READ = 4 << 20
_EXCEPTION = re.compile(
    r"(?:^|\s)(?P<error>(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)(?:Group)?: \S.*?)\s*$"
)
_SILENT = re.compile(r"(?:^|\s)AssertionError\s*$")
_ASSERTION = re.compile(r"(?:^|\s)(?P<code>assert \S.*?)\s*$")


class EngineLog:
    """One engine's log, which the engine's process writes.

    The environment variable ``ENGINEROOM_NAME_LOG`` names a file to keep it in. Without it there is a temporary one, which
    a clean end removes.

    Args:
        name: the engine's word in ``infer_backend``.
        echoes: texts in exceptions that only say that there was another.
    """

    def __init__(self, name: str, echoes: Sequence[str] = ()) -> None:
        self._name = name
        self._echoes = echoes
        self._named = os.environ.get(log_variable(name))
        self._begin = 0

    @cached_property
    def path(self) -> Path:
        """The file, made when first asked for: an engine that never starts leaves none."""
        if self._named:
            path = Path(self._named).expanduser().absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        descriptor, name = tempfile.mkstemp(prefix=f"engineroom-{self._name}-", suffix=".log")
        os.close(descriptor)
        return Path(name)

    def write(self, text: str) -> None:
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def begin(self) -> None:
        """What is in the file already was said by somebody else: an earlier engine, or an earlier attempt."""
        with suppress(OSError):
            self._begin = self.path.stat().st_size

    def text(self) -> str:
        """What was said since ``begin``; of very much, the first part."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._begin)
                return file.read(_READ).decode("utf-8", errors="replace")
        except OSError:
            return ""

    def last_words(self) -> str:
        """The engine's own first exception; without one, its last line; empty if it said nothing."""
        lines = self.text().splitlines()
        return first_exception(lines, self._echoes) or next(
            (line.strip() for line in reversed(lines) if line.strip()), ""
        )

    def discard(self) -> None:
        """Removes the file, unless the user asked for it by name."""
        if not self._named and "path" in self.__dict__:
            self.path.unlink(missing_ok=True)


def log_variable(name: str) -> str:
    return f"ENGINEROOM_{name.upper()}_LOG"


def first_exception(lines: list[str], echoes: Sequence[str] = ()) -> str:
    """The first exception that tells a cause, as Python prints it under a traceback; empty if there is none."""
    assertion = ""
    for line in lines:
        if found := _ASSERTION.search(line):
            assertion = found["code"]
        if _SILENT.search(line):  # it has no words but its own source
            return f"AssertionError: {assertion}".removesuffix(": ")
        match = _EXCEPTION.search(line)
        if match and not any(text in line for text in echoes):
            return match["error"]
    return ""
