"""The texts of the commands that go through many: read from words, a file or standard input, and answered in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from engineroom.cli.command import settings_of
from engineroom.cli.scorable import Scorable, read_lines, read_words
from engineroom.errors import (
    ArgumentError,
    MessageError,
    RequestError,
    UnknownArgumentError,
)

if TYPE_CHECKING:
    from engineroom.call import Conversation
    from engineroom.config import Arguments

T = TypeVar("T")

_BATCH = 8


def text_arguments(context: typer.Context, **defaults: Any) -> Arguments:
    """The settings among the words, upon these defaults."""
    try:
        return settings_of(context).arguments(**defaults)
    except UnknownArgumentError as error:
        why = "words like key=value and --key are settings; texts that look so go after `--`"
        raise UnknownArgumentError(error.what, why=why, fix=error.fix, argument=error.argument) from error


def nothing(command: str) -> ArgumentError:
    return ArgumentError(f"there is nothing to {command}", fix=f'engineroom {command} "a text" "another"')


@contextmanager
def read(command: str, texts: list[str], file: Path | None) -> Generator[Iterator[Scorable], None, None]:
    """The texts of ``engineroom COMMAND``, read as they are needed.

    Raises:
        ArgumentError: there are none, or from two sources.
    """
    if file is not None and texts:
        raise ArgumentError("there are texts and a --file", fix="give one of the two")
    if file is not None and str(file) != "-":
        try:
            stream = file.open(encoding="utf-8-sig")  # with or without a byte-order mark
        except OSError as error:
            raise ArgumentError(
                f"can't read {str(file)!r}", why=str(error.strerror or error), fix="check the path"
            ) from error
        with stream:
            yield read_lines(stream)
    elif file is not None or texts == ["-"] or (not texts and not sys.stdin.isatty()):
        yield read_lines(sys.stdin)
    elif "-" in texts:
        raise ArgumentError(
            "`-` reads standard input and can't stand beside texts", fix="give one of the two"
        )
    elif texts:
        for text in texts:
            _refuse_model_folder(command, text)
        yield read_words(texts)
    else:
        raise nothing(command)


def _refuse_model_folder(command: str, text: str) -> None:
    """Whoever comes from the other commands names the model first; its path would be taken for a text in silence."""
    try:
        is_model = (Path(text) / "config.json").is_file()
    except OSError:  # too long for a path
        return
    if is_model:
        raise ArgumentError(
            f"{text!r} is a model folder, not a text",
            why=f"{command} takes texts; the model is a setting",
            fix=f"model_name_or_path={text} (if the path itself is the text, pipe it in)",
        )


def answered(
    ask: Callable[[Sequence[Conversation]], list[T]], items: Iterable[Scorable]
) -> Generator[tuple[Scorable, T], None, None]:
    """Each item with what ``ask`` says of it. If one fails, those before it are answered, and the error names its place."""
    for batch in _batches(items):
        try:
            yield from zip(batch, ask([item.content for item in batch]), strict=True)
        except RequestError:
            yield from _one_by_one(ask, batch)


def _batches(items: Iterable[Scorable]) -> Generator[list[Scorable], None, None]:
    """Full batches and a last one. What came before an item that can't be read is handed out before its error."""
    batch: list[Scorable] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except MessageError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _one_by_one(
    ask: Callable[[Sequence[Conversation]], list[T]], batch: list[Scorable]
) -> Generator[tuple[Scorable, T], None, None]:
    for item in batch:
        try:
            yield item, ask([item.content])[0]
        except RequestError as error:
            if error.place.startswith("batch_input[0]"):
                error.moved("batch_input[0]", item.place)
            raise


@contextmanager
def progress(word: str, texts: Sequence[str]) -> Generator[Callable[[], None], None, None]:
    """A count on the terminal while the results go elsewhere; on the terminal they show by themselves how it goes.

    Args:
        word: what has been done to each: ``scored``.
        texts: those among the command's words, where they are all.
    """
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total = len(texts) if texts and list(texts) != ["-"] else None
    counted = MofNCompleteColumn() if total else TextColumn("{task.completed}")
    with Progress(
        *(TextColumn(word), counted, BarColumn(), TimeElapsedColumn()),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # else Rich prints the results on the terminal instead
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
