"""``engineroom chat``: the plain form, a line at a time."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from engineroom.cli.command import settings_of
from engineroom.errors import EngineroomError

if TYPE_CHECKING:
    from engineroom.chat import ChatModel

EXAMPLES = """\
engineroom chat                                        talk to the model that ships inside
engineroom chat -p "What is 7 plus 5?" temperature=0   one answer
echo "What is 7 plus 5?" | engineroom chat             the same, piped
engineroom chat ./my-model config.yaml top_p=0.9       a folder, with settings
"""


def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, a hub repository, or a shipped model.", show_default="demo"),
    ] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="Answer this and leave.")] = None,
    system: Annotated[str | None, typer.Option("-s", "--system", help="System prompt.")] = None,
) -> int:
    """Talk to a model: answers -p, or what is piped in, or line after line until `exit`."""
    from engineroom.chat import ChatModel

    arguments = settings_of(context).arguments(model_name_or_path=model)
    if not sys.stdin.isatty() and prompt is None:
        prompt = sys.stdin.read().strip()
    with ChatModel(arguments) as loaded:
        if prompt is not None:
            _answer(loaded, [{"role": "user", "content": prompt}], system)
            return 0
        return _converse(loaded, system)


def _converse(model: ChatModel, system: str | None) -> int:
    messages: list[dict[str, str]] = []
    print("Type a message; clear forgets the conversation, exit leaves.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return 0
        if text in ("exit", "/exit"):
            return 0
        if text in ("clear", "/clear"):
            messages = []
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                messages.append({"role": "assistant", "content": _answer(model, messages, system)})
            except EngineroomError as error:
                messages.pop()
                print(error, file=sys.stderr)


def _answer(model: ChatModel, messages: list[dict[str, str]], system: str | None) -> str:
    """Prints the answer as it comes. Ctrl-C stops it and keeps the part that came."""
    text = ""
    try:
        with closing(model.stream_chat(messages, system=system)) as pieces:
            for piece in pieces:
                text += piece
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print()
    return text
