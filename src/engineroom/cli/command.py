"""What every command has in common: its settings are taken out before Typer reads the rest, and its help has examples."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, cast

import typer
from typer.core import TyperCommand

from engineroom.cli.settings import OwnOptions, Settings, split
from engineroom.errors import UnknownArgumentError

JsonFlag: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]

OWN_PROCESS_KEY = "engineroom.own_process"
_SETTINGS_KEY = "engineroom.settings"
_COMMON = """\
Settings can stand anywhere among the words: key=value, --key value, --key=value, or a .yaml / .json file of them;
`engineroom settings` lists them. After `--`, no word is a setting. `--debug` shows the traceback of an error.
"""


class SettingsCommand(TyperCommand):
    """A command whose words may hold settings anywhere. ``epilog`` is its examples, a line each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        sorted_words = split(args, self._own_options(ctx))
        ctx.meta[_SETTINGS_KEY] = sorted_words.settings
        return super().parse_args(ctx, list(sorted_words.own))

    def _own_options(self, ctx: Any) -> OwnOptions:
        valued: set[str] = set()
        flags: set[str] = set()
        for parameter in cast("list[Any]", self.get_params(ctx)):
            if parameter.param_type_name == "option":
                names = [*parameter.opts, *parameter.secondary_opts]
                (flags if parameter.is_flag or parameter.count else valued).update(names)
        return OwnOptions(frozenset(valued), frozenset(flags))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples as they were written, then what holds for all commands."""
        with formatter.section("Examples"):
            for line in inspect.cleandoc(self.epilog or "").splitlines():
                formatter.write(f"  {line}\n")
        formatter.write_paragraph()
        formatter.write_text(_COMMON)


def settings_of(context: typer.Context) -> Settings:
    """The settings among the words of the command that runs."""
    return cast("Settings", context.meta[_SETTINGS_KEY])


def is_own_process(context: typer.Context) -> bool:
    """Was the program started for this command alone, rather than called from other Python code?"""
    return bool(context.meta.get(OWN_PROCESS_KEY))


def refuse_settings(context: typer.Context, command: str, allowed: Sequence[str] = ()) -> None:
    """For a command that has no model to set anything on. ``allowed`` are those that it reads all the same.

    Raises:
        ArgumentError: settings were given.
    """
    settings = settings_of(context)
    words = [name for name, _ in settings.assignments if name not in allowed] + [
        str(path) for path in settings.configs
    ]
    if words:
        raise UnknownArgumentError(
            f"engineroom {command} has no option {words[0]!r}", fix=f"engineroom {command} --help"
        )
