"""An answer on the screen while it comes: finished blocks are printed for good, the last one is redrawn in place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.status import Status
from rich.style import Style
from rich.text import Text

from engineroom.cli.terminal.markdown import Block, split_finished
from engineroom.types import Delta

_REFRESH = 12  # times a second
_LOOK_AGAIN = 0.1  # seconds between two looks for finished blocks, each of which reads the whole last block
_MARGIN = 2  # rows left free below a live block, so that the terminal does not scroll while it is redrawn
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text that can't steer the terminal: a model, or a file that was read to it, may hold escape sequences."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))


class AnswerView:
    """Shows one answer. Use as a context manager; :meth:`push` deltas while inside.

    Args:
        thinking_tags: left out of the shown reasoning.
    """

    def __init__(self, console: Console, thinking_tags: tuple[str, str] | None = None) -> None:
        self._console = console
        self._tags = thinking_tags or ()
        self._channel = "answer"
        self._pending = ""
        self._printed = False
        self._looked = 0.0
        self._waiting = Status("reading the prompt", console=console, spinner_style="dim")
        self._live = Live(
            _Now(self._tail),
            console=console,
            refresh_per_second=_REFRESH,
            transient=True,
            vertical_overflow="visible",
        )

    def __enter__(self) -> Self:
        self._waiting.start()
        return self

    def push(self, delta: Delta) -> None:
        """Shows the next piece."""
        if not self._live.is_started:
            self._waiting.stop()
            self._live.start()
        if delta.text and delta.channel != self._channel:
            self._flush()
            self._channel = delta.channel
        text = printable(delta.text)
        for tag in self._tags if self._channel == "reasoning" else ():
            text = text.replace(tag, "")
        self._pending += text if self._pending else text.lstrip("\n")
        if "\n" in text and time.monotonic() - self._looked > _LOOK_AGAIN:
            self._print_finished()
            self._looked = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.stop()
        if self._live.is_started:
            self._live.stop()
        self._flush()

    def _print_finished(self) -> None:
        finished, self._pending = self._split(self._pending)
        for block in finished:
            self._print(block)

    def _split(self, text: str) -> tuple[list[str], str]:
        if self._channel == "answer":
            return split_finished(text)
        thought, _, rest = text.rpartition("\n\n")
        return ([thought] if thought.strip() else []), rest if thought.strip() else text

    def _flush(self) -> None:
        self._print_finished()
        last, self._pending = self._pending, ""
        if last.strip():
            self._print(last)

    def _print(self, block: str) -> None:
        self._console.print(_Lines(self._look(block), blank_before=self._printed))
        self._printed = True

    def _tail(self) -> RenderableType:
        """What the live region shows: the end of the last block, as much as fits."""
        height = max(self._console.height - _MARGIN, 1)
        return _Lines(
            self._look(_end_of(self._pending, 2 * height)), blank_before=self._printed, height=height
        )

    def _look(self, text: str) -> RenderableType:
        if self._channel == "answer":
            return Block(text)
        return Text("\n".join(f"│ {line}" for line in text.strip("\n").split("\n")), style="dim italic")


def _end_of(block: str, lines: int) -> str:
    """The last lines of a block, still as code if it is code: redrawing costs the same however long a block grows."""
    source = block.split("\n")
    if len(source) <= lines:
        return block
    opening = source[:1] if source[0].lstrip().startswith(("```", "~~~")) else []
    return "\n".join([*opening, *source[-lines:]])


class _Now:
    """Looks as ``make()`` does at the moment of drawing: Live also redraws its last frame below what is printed."""

    def __init__(self, make: Callable[[], RenderableType]) -> None:
        self._make = make

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._make()


class _Lines:
    """A renderable without blank lines around it and without blanks at the ends of its lines.

    Args:
        blank_before: put one blank line in front.
        height: show only this many of the last lines.
    """

    def __init__(self, content: RenderableType, *, blank_before: bool, height: int | None = None) -> None:
        self._content = content
        self._blank_before = blank_before
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [_stripped(line) for line in console.render_lines(self._content, options, pad=False)]
        while lines and not lines[0]:
            lines.pop(0)
        while lines and not lines[-1]:
            lines.pop()
        if lines and self._blank_before:
            lines.insert(0, [])
        if self._height is not None:
            lines = lines[-self._height :]
        yield from _joined(lines)


def _stripped(line: list[Segment]) -> list[Segment]:
    """The line without blanks at its end, which would only get in the way of copying."""
    line = list(line)
    while line and not line[-1].text.strip() and not _has_ground(line[-1].style):
        line.pop()
    if line and not _has_ground(line[-1].style):
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    return line


def _has_ground(style: Style | None) -> bool:
    return style is not None and (style.bgcolor is not None or bool(style.underline))


def _joined(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()
