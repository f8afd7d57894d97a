"""How a run ends: its exit code, and what is said when it went wrong.

Expected errors are told as what, why and fix. Unexpected ones keep their traceback in a file that the message names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import typer

from engineroom.cli.console import print_error
from engineroom.errors import ArgumentError, EngineroomError, RequestError

DONE, FAILED, MISUSED, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""The last two are what a shell reports for a program that SIGINT or SIGPIPE ended."""

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Typer does not export it under its own name


def ended(command: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Runs ``command`` on ``words`` and turns whatever happens into an exit code."""
    words, debug = _without_debug(words)
    try:
        code = command(words)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = _told(error, words)
        print_error(told, as_json="--json" in _before_dashes(words))
        return MISUSED if isinstance(told, (ArgumentError, RequestError)) else FAILED


def _told(error: Exception, words: Sequence[str]) -> EngineroomError:
    """The error as one that says what, why and how to go on."""
    if isinstance(error, ArgumentError) and error.argument and not error.fix:
        error.fix = _where_explained(error.argument, words)
    if isinstance(error, EngineroomError):
        return error
    if isinstance(error, _UsageError):
        command = next((f" {word}" for word in words[:1] if not word.startswith("-")), "")
        what = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        return ArgumentError(what, fix=f"engineroom{command} --help")
    if isinstance(error, OSError) and error.filename:
        return FileAccessError(error)
    if isinstance(error, MemoryError):
        return OutOfMemoryError(words)
    return UnexpectedError(error, _write_crash_log())


def _where_explained(argument: str, words: Sequence[str]) -> str:
    """`engineroom settings` knows those of models; what is a command's own is in its help."""
    from engineroom.config import describe

    if any(doc.name == argument for doc in describe()):
        return f"`engineroom settings {argument}` explains it"
    return f"`engineroom {words[0]} --help` lists it" if words else "see `engineroom --help`"


class FileAccessError(EngineroomError):
    """The system refuses a file that nothing else has an error of its own for."""

    def __init__(self, error: OSError) -> None:
        name = str(error.filename)
        fix = (
            f"check its permissions: ls -ld {name}"
            if isinstance(error, PermissionError)
            else "check the path"
        )
        super().__init__(f"{name!r} can't be used", why=error.strerror or type(error).__name__, fix=fix)


class OutOfMemoryError(EngineroomError):
    """The machine has no memory left for what was asked."""

    def __init__(self, words: Sequence[str]) -> None:
        model = " ".join(word for word in words[1:2] if not word.startswith("-"))
        super().__init__(
            "the memory is used up",
            why="the model, or the conversation, is too big for this machine",
            fix=f"`engineroom doctor {model}".rstrip() + "` tells what fits",
        )


class UnexpectedError(EngineroomError):
    """A defect of engineroom or of a library, not of the user's."""

    def __init__(self, error: Exception, log: Path | None) -> None:
        detail = " ".join(str(error).split())[:500]
        super().__init__(
            f"unexpected {type(error).__name__}" + (f": {detail}" if detail else ""),
            why="this is a defect in engineroom or in a library it uses"
            + (f"; the full traceback is in {log}" if log else ""),
            fix="run the command again with --debug to see the traceback, and report it",
        )


def _write_crash_log() -> Path | None:
    """Keeps the traceback that is being handled; None if there is no place that can be written."""
    import tempfile
    import time

    from engineroom.cli.home import home

    name = time.strftime(f"crash-%Y%m%d-%H%M%S-{os.getpid()}.log")
    for folder in (home() / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
            return folder / name
        except OSError:
            continue
    return None


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """``--debug`` may stand anywhere before ``--``; ENGINEROOM_DEBUG=1 does the same."""
    before = _before_dashes(words)
    asked = "--debug" in before or os.environ.get("ENGINEROOM_DEBUG", "0") not in ("", "0")
    return [*(w for w in before if w != "--debug"), *words[len(before) :]], asked


def silence(stream: TextIO) -> None:
    """Nobody takes what is written there. Python would complain once more when it flushes at exit, so it goes nowhere."""
    with contextlib.suppress(OSError, ValueError):  # it is not a real file in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
