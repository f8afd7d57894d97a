"""``engineroom score``: a reward model's score for each text or conversation, as soon as it is known."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.cli.console import print_json_line
from engineroom.cli.scorable import Scorable, read_lines, read_words
from engineroom.errors import (
    ArgumentError,
    MessageError,
    PromptTooLongError,
    RequestError,
    TemplateError,
    UnknownArgumentError,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from engineroom.chat import ChatModel
    from engineroom.config import Arguments

EXAMPLES = """\
engineroom score "You are welcome." "Go away."
engineroom score model_name_or_path=./my-reward-model "a text"
engineroom score --file answers.jsonl --json > scores.jsonl
cat answers.txt | engineroom score
engineroom score -- "x=1 is a text here, not a setting"
"""
_BATCH = 8


def score(
    context: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts to score; `-` reads standard input.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the texts from a file.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Score texts with a reward model, a score a line.

    The model is the shipped demo-reward unless model_name_or_path names another. Without texts, standard input is
    read: a text a line, or JSON lines that hold {"text": …} or {"messages": […]}.

    With --json each line is an object with index (from 0), score, and the input's own id if it has one.
    """
    arguments = _arguments(context)
    with _items(texts or [], file) as items:
        first = next(items, None)
        if first is None:
            raise ArgumentError("there is nothing to score", why="the input is empty", fix=_FIX)
        from engineroom.cli.loading import open_model

        with (
            open_model(arguments) as model,
            _progress(len(texts) if texts and texts != ["-"] else None) as progress,
        ):
            for item, value in _scores(model, _rejoined(first, items)):
                if as_json:
                    print_json_line({"index": item.index, **item.identity, "score": value})
                else:
                    print(f"{value:.6f}", flush=True)
                if progress:
                    progress.advance(progress.task_ids[0])
    return 0


def _arguments(context: typer.Context) -> Arguments:
    try:
        return settings_of(context).arguments(model_name_or_path="demo-reward")
    except UnknownArgumentError as error:
        why = "words like key=value and --key are settings; texts that look so go after `--`"
        raise UnknownArgumentError(error.what, why=why, fix=error.fix, argument=error.argument) from error


_FIX = 'engineroom score "a text" "another"'


@contextmanager
def _items(texts: list[str], file: Path | None) -> Generator[Iterator[Scorable], None, None]:
    """What is to be scored, read as it is needed."""
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
            _refuse_model_folder(text)
        yield read_words(texts)
    else:
        raise ArgumentError("there is nothing to score", fix=_FIX)


def _refuse_model_folder(text: str) -> None:
    """Whoever comes from the other commands names the model first; its path would be scored in silence."""
    try:
        is_model = (Path(text) / "config.json").is_file()
    except OSError:  # too long for a path
        return
    if is_model:
        raise ArgumentError(
            f"{text!r} is a model folder, not a text",
            why="score takes texts; the model is a setting",
            fix=f"model_name_or_path={text} (to score the path itself, pipe it in)",
        )


def _rejoined(first: Scorable, rest: Iterator[Scorable]) -> Generator[Scorable, None, None]:
    yield first
    yield from rest


def _scores(model: ChatModel, items: Iterable[Scorable]) -> Generator[tuple[Scorable, float], None, None]:
    """Each item with its score. If one can't be scored, those before it still are, and the error names its place."""
    for batch in _batches(items):
        try:
            yield from zip(batch, model.get_scores([item.content for item in batch]), strict=True)
        except RequestError:
            yield from _one_by_one(model, batch)


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


def _one_by_one(model: ChatModel, batch: list[Scorable]) -> Generator[tuple[Scorable, float], None, None]:
    for item in batch:
        try:
            yield item, model.get_scores([item.content])[0]
        except (MessageError, PromptTooLongError, TemplateError) as error:
            what = error.what.replace("batch_input[0]", "it")
            raise RequestError(f"{item.place}: {what}", why=error.why, fix=error.fix) from error


@contextmanager
def _progress(total: int | None) -> Generator[Progress | None, None, None]:
    """A count on the terminal while the scores go elsewhere; scores on the terminal show by themselves how it goes."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counted = MofNCompleteColumn() if total else TextColumn("{task.completed}")
    with Progress(
        *(TextColumn("scored"), counted, BarColumn(), TimeElapsedColumn()),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # else Rich prints the scores on the terminal instead
        redirect_stderr=False,
    ) as progress:
        progress.add_task("", total=total)
        yield progress
