"""Ctrl-C while something takes its time, and the keyboard meanwhile."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import FrameType, ModuleType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class _Guard:
    """Takes Ctrl-C's signal over while it is entered. On another thread than the main one, which gets none, it does nothing.

    Args:
        numbers: the signals; SIGINT is Ctrl-C's.

    Attributes:
        came: Ctrl-C was pressed.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.came = False
        self._numbers = numbers or (signal.SIGINT,)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.came = True


class LoadInterrupt(_Guard):
    """Ctrl-C while libraries are imported and a model is loaded.

    It raises KeyboardInterrupt as ever. But torch takes any error in its own import of numpy for a missing numpy
    (seen with 2.13), and the program would go on for seconds as if nothing had been pressed. So it is remembered, and
    raised again at the next import, the next stage or the end.
    """

    def __enter__(self) -> Self:
        sys.meta_path.insert(0, self)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.meta_path.remove(self)
        super().__exit__(kind, error, trace)
        if self.came:
            raise KeyboardInterrupt from None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises it again, on the thread that may be interrupted."""
        if self.came and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Finds no module: as the first of ``sys.meta_path`` it is asked at each import of a new one."""
        self.check()


class Interrupts(_Guard):
    """Lets Ctrl-C break in only while the next piece of an answer is waited for.

    Anywhere else it is remembered until the next wait, so that it never tears the drawing of the screen or the
    writing of the history in two.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def waiting_for(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until Ctrl-C ends them."""
        iterator = iter(items)
        while not self.came:
            try:
                self._waiting = True
                item = next(iterator, None)
            except KeyboardInterrupt:
                self.came = True
                return
            finally:
                self._waiting = False
            if item is None:
                return
            yield item


@contextlib.contextmanager
def quiet_keys() -> Generator[None, None, None]:
    """Keys pressed meanwhile are not echoed into the answer; the next prompt gets them."""
    import termios

    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, termios.error):  # no terminal, or no file at all
        yield
        return
    quiet = [*before]
    quiet[3] = int(quiet[3]) & ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
