"""The ``engineroom`` program: its commands, and how a run of it ends.

Command modules import only light things at their top; what is heavy is imported inside the command. So ``--help``
costs no more than Typer itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from engineroom.cli import (
    api,
    bench,
    chat,
    compare,
    convert_experts,
    doctor,
    embed,
    env,
    list_settings,
    logs,
    render,
    score,
)
from engineroom.cli.command import OWN_PROCESS_KEY, SettingsCommand
from engineroom.cli.ending import DONE, MISUSED, ended
from engineroom.errors import ArgumentError, nearest

_HELP = """\
One chat and scoring API over several inference engines.

Without a model, the one that ships inside answers: nothing to download, no account, no GPU.
"""


COMMANDS: tuple[tuple[Any, Callable[..., int]], ...] = (
    (chat, chat.chat),
    (api, api.api),
    (score, score.score),
    (embed, embed.embed),
    (render, render.render),
    (doctor, doctor.doctor),
    (compare, compare.compare),
    (bench, bench.bench),
    (env, env.env),
    (convert_experts, convert_experts.convert_experts),
    (logs, logs.logs),
    (list_settings, list_settings.settings),
)
"""Each command's module, which has its EXAMPLES, and its function, whose name and docstring are the command's."""


def _version(wanted: bool) -> None:
    if wanted:
        from engineroom import __version__

        typer.echo(f"engineroom {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def build() -> Any:
    """The program as a Click command, ready to be run or asked for its help."""
    app = typer.Typer(
        name="engineroom",
        help=_HELP,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=False)(_root)
    for module, function in COMMANDS:
        app.command(function.__name__.replace("_", "-"), cls=SettingsCommand, epilog=module.EXAMPLES)(
            function
        )
    return typer.main.get_command(app)


def run(words: Sequence[str], *, own_process: bool = False) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 misused, 130 interrupted.

    Args:
        own_process: the process is this command's alone, which may then do to it what lasts.
    """
    return ended(partial(_invoke, own_process), words)


def _invoke(own_process: bool, words: Sequence[str]) -> int:
    program = build()
    if "_ENGINEROOM_COMPLETE" in os.environ:  # the shell asks for completions
        program.main(list(words), prog_name="engineroom")
    if not words:
        print(program.get_help(program.make_context("engineroom", [], resilient_parsing=True)))
        return MISUSED
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    _refuse_unknown_command(words[0], tuple(program.commands))
    with program.make_context("engineroom", list(words)) as context:
        context.meta[OWN_PROCESS_KEY] = own_process
        return int(program.invoke(context) or DONE)


def _refuse_unknown_command(word: str, commands: Sequence[str]) -> None:
    if word.startswith("-") or word in commands:
        return
    guess = nearest(word, commands)
    raise ArgumentError(
        f"unknown command {word!r}",
        why=f"commands: {', '.join(commands)}",
        fix=f"did you mean `engineroom {guess}`?" if guess else f"to talk to a model: engineroom chat {word}",
    )
