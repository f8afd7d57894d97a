"""The program in this process, with a home of its own and nothing on standard input; and chats without a terminal."""

import io
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from talking import Chat, Making

from engineroom.cli.app import run
from engineroom.cli.store import ConversationStore


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs words as the program would, and returns exit code, standard output and standard error.

    ``stdin`` is what is piped in; None is a terminal at which nothing is typed.
    """
    monkeypatch.setenv("ENGINEROOM_HOME", str(tmp_path))
    monkeypatch.delenv("ENGINEROOM_DEBUG", raising=False)

    def start(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else io.StringIO(stdin))
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


@pytest.fixture
def make() -> Generator[Making, None, None]:
    """Makes chats, which are closed when the test has ended."""
    chats: list[Chat] = []

    def make(*replies: Any, **options: Any) -> Chat:
        chats.append(Chat(*replies, **options))
        return chats[-1]

    yield make
    for chat in chats:
        chat.close()


@pytest.fixture
def store(tmp_path: Path) -> Generator[ConversationStore, None, None]:
    with ConversationStore.open(tmp_path / "c.sqlite") as store:
        yield store
