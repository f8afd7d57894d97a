"""``engineroom chat``: one answer, or a conversation."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from engineroom.cli.command import JsonFlag, settings_of
from engineroom.errors import ArgumentError, HistoryError

if TYPE_CHECKING:
    from engineroom.chat import ChatModel
    from engineroom.cli.conversation import Conversation
    from engineroom.cli.settings import Settings
    from engineroom.cli.store import ConversationStore
    from engineroom.cli.terminal.session import Session
    from engineroom.config import Arguments

EXAMPLES = """\
engineroom chat                                        talk to the model that ships inside
engineroom chat -p "What is 7 plus 5?" temperature=0   one answer
git diff | engineroom chat -p "What changed here?"     one answer about what is piped in
engineroom chat ./my-model config.yaml top_p=0.9       a folder, with settings
engineroom chat -c                                     go on with the last conversation
"""


def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="A folder, a hub repository, or a shipped model.", show_default="demo"),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="Answer this and leave.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("-s", "--system", metavar="TEXT", help="System prompt.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("-c", "--continue", help="Go on with the last conversation.")
    ] = False,
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            help="Keep the conversation on this machine (ENGINEROOM_HISTORY=0 is --no-history).",
        ),
    ] = True,
    as_json: JsonFlag = False,
) -> int:
    """Talk to a model.

    Without -p, and with a terminal to type at, this is a conversation; /help in it lists what there is. Otherwise -p
    or what is piped in is answered, and the program ends. Piped text behind -p follows the prompt.

    With --json, one object: text, reasoning, finish_reason, usage, timings, model, engine.
    """
    from engineroom.cli.home import history_wanted
    from engineroom.cli.one_shot import answer_as_json, answer_once, read_prompt

    text = read_prompt(prompt)
    keep = history and history_wanted()
    _check_options(text, keep=keep, resume=resume, as_json=as_json)
    with ExitStack() as stack:
        store = _open_store(stack) if keep and (text is None or resume) else None
        kept = _last(store) if resume else None
        arguments = _arguments(settings_of(context), model, kept)
        _check_arguments(arguments, as_json=as_json)
        began = time.perf_counter()
        session = _session(stack, arguments, system, store, kept)
        if text is None:
            return _converse(session, keep)
        if as_json:
            return answer_as_json(session, text, time.perf_counter() - began)
        return answer_once(session, text)


def _check_options(text: str | None, *, keep: bool, resume: bool, as_json: bool) -> None:
    """
    Raises:
        ArgumentError: two of the options contradict each other.
    """
    if text is None and as_json:
        raise ArgumentError(
            "--json needs a prompt", why="a conversation is not one answer", fix="add -p TEXT"
        )
    if resume and not keep:
        raise ArgumentError(
            "there is nothing to go on with",
            why="the history is off",
            fix="leave -c out, or turn the history on",
        )


def _open_store(stack: ExitStack) -> ConversationStore | None:
    """The kept conversations; None, and a word about it, if they can't be used."""
    from engineroom.cli.console import print_error
    from engineroom.cli.store import ConversationStore

    try:
        return stack.enter_context(ConversationStore.open())
    except HistoryError as error:
        print_error(error)
        return None


def _last(store: ConversationStore | None) -> Conversation | None:
    """The conversation to go on with; None, and a word about it, if there is none."""
    from engineroom.cli.loading import print_note

    kept = store.last() if store is not None else None
    if kept is None:
        print_note("there is no conversation to go on with yet; this is a new one")
    return kept


def _arguments(settings: Settings, model: str | None, kept: Conversation | None) -> Arguments:
    """A resumed conversation brings its model's arguments, unless another model is named."""
    if kept is not None and model is None and "model_name_or_path" not in settings.values():
        return settings.arguments(**kept.summary.settings)
    return settings.arguments(model_name_or_path=model)


def _check_arguments(arguments: Arguments, *, as_json: bool) -> None:
    """
    Raises:
        ArgumentError: something would be computed and not shown.
    """
    if arguments.n is not None and arguments.n > 1:
        raise ArgumentError(
            f"n={arguments.n} can't be had here",
            why="chat gives one answer",
            fix="leave n out, or use ChatModel.chat in Python",
            argument="n",
        )
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(arguments, name) is not None and not as_json:
            raise ArgumentError(
                f"{name} can't be shown here",
                why="only --json shows them",
                fix="add -p TEXT --json",
                argument=name,
            )


def _session(
    stack: ExitStack,
    arguments: Arguments,
    system: str | None,
    store: ConversationStore | None,
    kept: Conversation | None,
) -> Session:
    from engineroom.cli.terminal.session import Session
    from engineroom.config import parse_arguments

    session = Session(
        _load(arguments),
        load=lambda values: _load(parse_arguments(values)),
        system=system,
        store=store,
    )
    stack.callback(lambda: session.model.close())  # the model may be another by then
    if kept is not None:
        session.resume(kept)
        if system is not None:
            session.set_system(system)
    return session


def _load(arguments: Arguments) -> ChatModel:
    from engineroom.cli.loading import load_model

    model = load_model(arguments)
    if model.engine.can_generate:
        return model
    model.close()
    name = arguments.model_name_or_path
    kind, does, command = (
        ("an embedding", "makes vectors", "embed")
        if model.engine.can_embed
        else ("a reward", "scores", "score")
    )
    raise ArgumentError(
        f"{name} is {kind} model: it {does}, it does not chat",
        fix=f'engineroom {command} model_name_or_path={name} "a text"',
        argument="model_name_or_path",
    )


def _converse(session: Session, keep: bool) -> int:
    import sys

    from engineroom.cli.terminal.completion import CommandCompleter
    from engineroom.cli.terminal.loop import Loop
    from engineroom.cli.terminal.prompt import PlainPrompt, RichPrompt
    from engineroom.cli.terminal.screen import Screen

    prompt = (
        RichPrompt(CommandCompleter(session), keep_history=keep) if sys.stdout.isatty() else PlainPrompt()
    )
    loop = Loop(session, prompt, Screen())
    loop.greet()
    loop.run()
    return 0
