"""What a slash command leads to. The loop shows it; a test looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from engineroom.cli.terminal.session import Answer


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equally many cells; the first cell is what the row is about."""

    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer to show as it comes.

    Attributes:
        question: shown above it, where it is not what was just typed.
    """

    answer: Answer
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What was said so far, to show again after a conversation was loaded."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The end."""


Outcome: TypeAlias = Notice | Table | Stream | Shown | Leave
