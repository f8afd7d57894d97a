"""The options that name an OpenAI-compatible server in place of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from engineroom.cli.command import settings_of
from engineroom.errors import ArgumentError

if TYPE_CHECKING:
    from engineroom.client import ServerAddress

UrlOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="ADDRESS",
        help="An OpenAI-compatible server instead of a model that is run here: http://127.0.0.1:8000/v1",
    ),
]
ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The model's name at that server, if it has several."),
]
ApiKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key", metavar="KEY", help="The server's key. ENGINEROOM_API_KEY keeps it off the command line."
    ),
]


def named_server(url: str | None, model: str | None, api_key: str | None) -> ServerAddress | None:
    """The server that the options name, or None if they name none.

    Raises:
        ArgumentError: the address is none, or there is a model's name or a key without one.
    """
    if url is None:
        for option, value, fix in (
            ("--model", model, "a model that is run here: model_name_or_path=NAME"),
            ("--api-key", api_key, "give the server's address, too"),
        ):
            if value is not None:
                raise ArgumentError(f"{option} without --url", why="it belongs to a server", fix=fix)
        return None
    from engineroom.client import ServerAddress

    return ServerAddress.parse(url, model, api_key)


def refuse_settings_of_server(context: typer.Context) -> None:
    """
    Raises:
        ArgumentError: there are settings, for a server that has its own.
    """
    settings = settings_of(context)
    for name in (*(name for name, _ in settings.assignments), *map(str, settings.configs)):
        raise ArgumentError(
            f"--url names a server, and {name} would be set on it",
            why="a server has settings of its own, which can't be changed from here",
            fix=f"leave out {name}, or start the server with it",
        )
