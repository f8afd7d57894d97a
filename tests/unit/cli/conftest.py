"""The program in this process, with a home of its own and nothing on standard input."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engineroom.cli.app import run


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
