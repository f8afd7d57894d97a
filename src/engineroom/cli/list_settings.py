"""``engineroom settings``: everything that can be set, with its type, default and meaning."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.command import JsonFlag, refuse_settings
from engineroom.cli.console import BOLD, DIM, paint, print_json
from engineroom.errors import UnknownArgumentError, nearest

if TYPE_CHECKING:
    from engineroom.config import ArgumentDoc

EXAMPLES = """\
engineroom settings               all of them
engineroom settings vllm          those with "vllm" in the name
engineroom settings temperature   one
"""


def settings(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A setting, or a part of its name.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """List what can be set: type, default and meaning.

    chat, score, render and doctor take these as key=value, --key value or in a file.

    With --json, a list of objects with name, type, default and help.
    """
    refuse_settings(context, "settings")
    from engineroom.config import describe

    docs = [doc for doc in describe() if name is None or name.replace("-", "_") in doc.name]
    if not docs:
        guess = nearest(name or "", [doc.name for doc in describe()])
        raise UnknownArgumentError(
            f"no setting has {name!r} in its name",
            fix=f"did you mean {guess}?" if guess else "`engineroom settings` lists all",
            argument=name or "",
        )
    if as_json:
        print_json([dataclasses.asdict(doc) for doc in docs])
        return 0
    for doc in docs:
        print(f"{paint(doc.name, BOLD, sys.stdout)}  {paint(_kind(doc), DIM, sys.stdout)}")
        print(f"    {doc.help}")
    return 0


def _kind(doc: ArgumentDoc) -> str:
    return f"{doc.type}; default {default_text(doc.default)}" if doc.default is not None else doc.type


def default_text(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)
