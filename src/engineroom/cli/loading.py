"""A model for the length of a command: the stages of loading are shown, and what the user should know is said."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engineroom.cli.console import YELLOW, paint

if TYPE_CHECKING:
    from engineroom.chat import ChatModel
    from engineroom.config import Arguments
    from engineroom.engines.base import Progress


@contextmanager
def open_model(arguments: Arguments) -> Generator[ChatModel, None, None]:
    """Loads the model that the arguments name, and closes it at the end."""
    with load_model(arguments) as model:
        yield model


def load_model(arguments: Arguments) -> ChatModel:
    """Loads the model that the arguments name, for the caller to close."""
    with load_progress(arguments.model_name_or_path) as progress:
        progress("importing the library", None)
        from engineroom.chat import ChatModel, TemplateWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TemplateWarning)  # said below, in our own words
            model = ChatModel(arguments, progress=progress)
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

    began = time.monotonic()
    with Console(stderr=True).status(f"loading {name}") as status:

        def show(stage: str, share: float | None) -> None:
            done = f" {share:.0%}" if share is not None and share < 1 else ""
            seconds = time.monotonic() - began
            status.update(f"loading {name}: {stage}{done} [dim]{seconds:.1f} s[/dim]")

        yield show


def print_note(text: str) -> None:
    """Something to know, on stderr; the command goes on."""
    print(f"{paint('note:', YELLOW, sys.stderr)} {text}", file=sys.stderr)
