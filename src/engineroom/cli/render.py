"""``engineroom render``: the exact prompt that a model will see, without loading its weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engineroom.cli.command import JsonFlag, is_own_process, settings_of
from engineroom.cli.console import CYAN, DIM, paint, print_json
from engineroom.cli.request import read_request

if TYPE_CHECKING:
    from engineroom.preview import PromptPreview
    from engineroom.types import Prompt, Tokenizer

EXAMPLES = """\
engineroom render -p "What is 7 plus 5?"                 text, token ids and their number
engineroom render -p hi -s "Be brief." enable_thinking=true
engineroom render ./my-model --messages chat.json --tools tools.json
engineroom render -p hi --text > prompt.txt              the text alone, to the byte
engineroom render -p hi --json | jq .length
"""


def render(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A folder, a hub repository, or a shipped model.", show_default="demo"
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="A user message.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("-s", "--system", metavar="TEXT", help="A system prompt in front.")
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option("--messages", metavar="FILE", help="A conversation as JSON; `-` reads standard input."),
    ] = None,
    tools: Annotated[
        Path | None, typer.Option("--tools", metavar="FILE", help="Function definitions as JSON.")
    ] = None,
    continue_final: Annotated[
        bool, typer.Option("--continue-final", help="Go on with the last message, an assistant's.")
    ] = False,
    text_only: Annotated[bool, typer.Option("--text", help="Print only the text, exactly.")] = False,
    ids_only: Annotated[bool, typer.Option("--ids", help="Print only the token ids, on one line.")] = False,
    as_json: JsonFlag = False,
) -> int:
    """Show the exact prompt that a model will see.

    Its text and token ids are shown; only the tokenizer is read. The messages are -p, or a JSON file, or standard input: a list of messages, an object
    with messages and tools, or else the text of a user message. A reward model's prompt is the whole conversation.

    With --json: text, token_ids, tokens (the text of each id), length, context_length, template (origin, name),
    warning.
    """
    request = read_request(prompt, messages, tools)
    arguments = settings_of(context).arguments(model_name_or_path=model)
    if is_own_process(context) and not arguments.trust_remote_code:
        _go_without_torch()
    from engineroom.preview import PromptPreview

    preview = PromptPreview(arguments)
    rendered = preview.render(request.messages, system, request.tools, continue_final=continue_final)
    if as_json:
        print_json(_as_json(preview, rendered))
    elif text_only:
        sys.stdout.write(rendered.text)
    elif ids_only:
        print(*rendered.token_ids)
    else:
        _show(preview, rendered)
    return 0


def _show(preview: PromptPreview, prompt: Prompt) -> None:
    from engineroom.cli.loading import print_note

    if preview.warning:
        print_note(preview.warning)
    print(_visible(preview.tokenizer, prompt))
    print()
    print(paint("ids:", DIM, sys.stdout), *prompt.token_ids)
    limit = f" of {preview.context_length}" if preview.context_length else ""
    print(paint("tokens:", DIM, sys.stdout), f"{len(prompt)}{limit}")
    name = preview.template.name if preview.template.origin != "chatml" else "ChatML"
    print(paint("template:", DIM, sys.stdout), name)
    if preview.context_length and len(prompt) >= preview.context_length:
        print_note("this prompt leaves no room for an answer; a request with it is refused")


def _visible(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The text, its control tokens in colour. A control token's string in a user's message is ordinary text."""
    pieces: list[str] = []
    ordinary: list[int] = []
    for token_id in (*prompt.token_ids, None):
        word = None if token_id is None else tokenizer.decode([token_id], skip_special_tokens=False)
        if token_id is not None and word not in tokenizer.added_tokens:
            ordinary.append(token_id)
            continue
        if ordinary:
            pieces.append(tokenizer.decode(ordinary, skip_special_tokens=False))
            ordinary = []
        if word is not None:
            pieces.append(paint(word, CYAN, sys.stdout))
    return "".join(pieces)


def _as_json(preview: PromptPreview, prompt: Prompt) -> dict[str, Any]:
    decode = preview.tokenizer.decode
    return {
        "text": prompt.text,
        "token_ids": list(prompt.token_ids),
        "tokens": [decode([token_id], skip_special_tokens=False) for token_id in prompt.token_ids],
        "length": len(prompt),
        "context_length": preview.context_length,
        "template": {"origin": preview.template.origin, "name": preview.template.name},
        "warning": preview.warning,
    }


def _go_without_torch() -> None:
    """Lets Transformers believe that torch is absent: tokenizers do without it, and importing it takes seconds.

    This holds for the rest of the process, so it is only done where the process is this command's alone.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  # the documented way to make an import fail
