"""A user at a pseudo-terminal: types keys and looks at the screen. Waiting is for what is seen, never for a time."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import pexpect
import pyte

ENTER, ALT_ENTER, TAB, UP = "\r", "\x1b\r", "\t", "\x1b[A"
CTRL_C, CTRL_D = "\x03", "\x04"

_PATIENCE = 120.0
"""Seconds until something that is expected counts as missing; machines that run tests are slow at times."""


class _Display(pyte.Screen):
    """A screen that answers the program's questions, such as where the cursor is."""

    answer: Callable[[str], object] = staticmethod(lambda data: None)

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class User:
    """Starts a program on a terminal of its own. Ends it at the end of ``with``."""

    def __init__(
        self,
        *words: str,
        env: Mapping[str, str],
        program: str | None = None,
        rows: int = 40,
        columns: int = 100,
    ) -> None:
        self._display = _Display(columns, rows)
        self._stream = pyte.ByteStream(self._display)
        start = [program] if program else ["-m", "engineroom"]
        self._child: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable, [*start, *words], env=dict(env), dimensions=(rows, columns), timeout=_PATIENCE
        )
        self._child.delaybeforesend = None
        self._display.answer = self._child.send

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self._display.display).rstrip()

    def types(self, *keys: str) -> None:
        for key in keys:
            self._child.send(key)

    def waits_until(self, seen: Callable[[str], bool], what: str) -> str:
        """Reads what the program writes until the screen is as wanted."""
        deadline = time.monotonic() + _PATIENCE
        while not seen(self.screen):
            try:
                self._stream.feed(self._child.read_nonblocking(65536, timeout=deadline - time.monotonic()))
            except pexpect.EOF:
                if seen(self.screen):
                    break
                raise AssertionError(f"the program ended before {what}:\n{self.screen}") from None
            except pexpect.TIMEOUT:
                raise AssertionError(f"{what} never came:\n{self.screen}") from None
        return self.screen

    def sees(self, *texts: str) -> str:
        return self.waits_until(lambda screen: all(t in screen for t in texts), repr(texts))

    def gets_the_prompt(self) -> str:
        """Waits until the cursor stands behind an empty prompt."""
        return self._waits_for_row(">", "the prompt")

    def asks(self, line: str) -> str:
        """Types a line at the prompt, and waits for the next prompt."""
        self.gets_the_prompt()
        self.types(line)
        self._waits_for_row(f"> {line}", "the typed line")
        self.types(ENTER)
        return self.gets_the_prompt()

    def _waits_for_row(self, row: str, what: str) -> str:
        """Waits until the cursor stands in a row that reads so."""
        return self.waits_until(lambda _: self._row() == row, what)

    def _row(self) -> str:
        return self._display.display[self._display.cursor.y].rstrip()

    def exit_code(self) -> int:
        """Waits for the end."""
        self._child.expect(pexpect.EOF)
        self._stream.feed(self._child.before or b"")
        self._child.close()
        code = self._child.exitstatus
        assert code is not None, f"ended by signal {self._child.signalstatus}"
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)
