"""A model for the length of a command: the stages of loading are shown, and what the user should know is said."""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engineroom.cli.console import YELLOW, paint
from engineroom.cli.interrupt import LoadInterrupt

if TYPE_CHECKING:
    from rich.text import Text

    from engineroom.bridge import Bridge
    from engineroom.chat import ChatModel
    from engineroom.config import Arguments
    from engineroom.engines.base import Progress


@contextmanager
def open_model(arguments: Arguments) -> Generator[ChatModel, None, None]:
    """Loads the model that the arguments name, and closes it at the end."""
    with load_model(arguments) as model:
        yield model


def load_model(arguments: Arguments, bridge: Bridge | None = None) -> ChatModel:
    """Loads the model that the arguments name, for the caller to close; onto an event loop of the caller's, if given.

    A server is ended by SIGTERM as by Ctrl-C.
    """
    numbers = (signal.SIGINT, signal.SIGTERM) if bridge else (signal.SIGINT,)
    with LoadInterrupt(*numbers) as interrupt, load_progress(arguments.model_name_or_path) as show:

        def progress(stage: str, share: float | None) -> None:
            interrupt.check()
            show("stopping" if interrupt.came else stage, share)

        progress("importing the library", None)
        from engineroom.chat import ChatModel, SamplingWarning, TemplateWarning

        with warnings.catch_warnings():
            for said_below in (TemplateWarning, SamplingWarning):
                warnings.simplefilter("ignore", said_below)
            model = ChatModel(arguments, progress=progress, bridge=bridge)
        if interrupt.came:
            model.close()
    for warning in model.warnings:
        print_note(warning)
    return model


@contextmanager
def load_progress(name: str) -> Generator[Progress, None, None]:
    """A callback for the stages of loading ``name``. They are shown on stderr if it is a terminal, and leave no trace."""
    if not sys.stderr.isatty():
        yield lambda stage, share: None
        return
    from rich.console import Console

    stage = _Stage(f"loading {name}")
    with Console(stderr=True).status(stage):
        yield stage.show


class _Stage:
    """The line that is shown while a model loads; its seconds go on while a stage lasts."""

    def __init__(self, name: str) -> None:
        self._name = self._line = name
        self._began = time.monotonic()

    def show(self, stage: str, share: float | None) -> None:
        done = f" {share:.0%}" if share is not None and share < 1 else ""
        self._line = f"{self._name}: {stage}{done}"

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text.assemble(self._line, (f" {time.monotonic() - self._began:.1f} s", "dim"))


def print_note(text: str) -> None:
    """Something to know, on stderr; the command goes on."""
    print(f"{paint('note:', YELLOW, sys.stderr)} {text}", file=sys.stderr)
