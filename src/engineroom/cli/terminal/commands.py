"""The slash commands. Each takes the session and the rest of its line, and says what it led to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engineroom.cli.conversation import Summary
from engineroom.cli.terminal import editor, overrides, transcript
from engineroom.cli.terminal.meter import tokens_per_second
from engineroom.cli.terminal.outcome import Leave, Notice, Outcome, Shown, Stream, Table
from engineroom.cli.terminal.session import Session
from engineroom.config import is_config_file, parse_words
from engineroom.errors import ArgumentError, EngineroomError, HistoryError, nearest


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on.

    Attributes:
        edit: opens a text in an editor; None if it was left as it was.
        written: files that this session wrote, which it may write again.
    """

    session: Session
    edit: Callable[[str], str | None] = editor.edit
    written: set[Path] = field(default_factory=set[Path])


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command. ``details`` is what ``/help NAME`` says beyond the summary."""

    name: str
    usage: str
    summary: str
    run: Callable[[Context, str], Outcome]
    details: str = ""


_SLASH = re.compile(r"/([A-Za-z?]+)(?:\s+(.*))?", re.DOTALL)
_PLAIN_WORDS = ("clear", "exit")
_OTHER_NAMES = {"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "retry": "regen", "new": "clear"}


def run(context: Context, line: str) -> Outcome | None:
    """Runs the command in ``line``; None if it is a message for the model.

    A line is a command if it is a slash and a word (``/etc/hosts`` is none), or the plain word ``clear`` or ``exit``.
    A space in front makes a message of anything.

    Raises:
        EngineroomError: the command is unknown, or can't be done.
    """
    if line in _PLAIN_WORDS:
        line = f"/{line}"
    match = _SLASH.fullmatch(line)
    return find(match[1]).run(context, (match[2] or "").strip()) if match else None


def find(name: str) -> Command:
    """The command called ``name``, slash or not.

    Raises:
        ArgumentError: there is none; the nearest one is named.
    """
    name = name.removeprefix("/").lower()
    name = _OTHER_NAMES.get(name, name)
    if name in COMMANDS:
        return COMMANDS[name]
    guess = nearest(name, COMMANDS)
    raise ArgumentError(
        f"unknown command /{name}",
        fix=f"did you mean /{guess}?"
        if guess
        else "/help lists the commands; a space in front sends it as a message",
    )


# --- answers ----------------------------------------------------------------------------------------------------


def _regen(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/regen")
    return Stream(context.session.regenerate(), context.session.last_question)


def _continue(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/continue")
    return Stream(context.session.go_on())


def _edit(context: Context, rest: str) -> Outcome:
    question = context.session.last_question
    if question is None:
        raise ArgumentError(
            "there is no message to edit", fix="type one; Ctrl-X Ctrl-E opens it in your editor"
        )
    text = rest or context.edit(question)
    if text is None:
        return Notice("unchanged; nothing was sent")
    return Stream(context.session.edit(text), text)


def _undo(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/undo")
    text = " ".join(context.session.undo().split())
    return Notice(f"taken back: {text if len(text) <= 60 else text[:59] + '…'}")


# --- settings ---------------------------------------------------------------------------------------------------


def _system(context: Context, rest: str) -> Outcome:
    session = context.session
    if not rest:
        return Notice(f"system prompt: {session.system}" if session.system else "there is no system prompt")
    text = session.started_system if rest == overrides.DEFAULT else None if rest == "none" else rest
    session.set_system(text)
    default = session.model.arguments.default_system
    if text is None and default:
        return Notice(f"the model was loaded with default_system, which applies: {default}")
    return Notice(f"system prompt: {text}" if text else "no system prompt any more")


def _set(context: Context, rest: str) -> Outcome:
    session = context.session
    before = overrides.in_force(session.model, session.overrides)
    if not rest:
        rows = [(s.name, s.shown, s.origin) for s in before]
        return Table(
            (*rows, ("thinking", _thinking(session), ""), ("system", session.system or "none", "")),
            note="change with /set name=value …; /set name=default takes it back; /help set names them all",
        )
    session.overrides = overrides.changed(session.overrides, rest, session.model)
    now = overrides.in_force(session.model, session.overrides)
    shown = {s.name for s in now}
    rows = [(s.name, s.shown, s.origin) for s in now if s not in before]
    rows += [(s.name, "off", "model default") for s in before if s.name not in shown]
    return Table(tuple(rows)) if rows else Notice("that is how it was already")


def _think(context: Context, rest: str) -> Outcome:
    session = context.session
    states = {"on": True, "off": False, "auto": None}
    if rest and rest not in states:
        raise ArgumentError(f"/think {rest} is not a state", why="states: on, off, auto", fix="/think on")
    if rest and rest != "auto" and not session.can_think:
        raise ArgumentError(
            f"thinking can't be turned {rest}",
            why="this model's chat template has no enable_thinking switch",
            fix="/model loads a model that has one, such as demo",
        )
    if rest:
        session.thinking = states[rest]
    return Notice(f"thinking: {_thinking(session)}")


def _thinking(session: Session) -> str:
    if not session.can_think:
        return "the template has no switch"
    chosen = session.model.arguments.enable_thinking if session.thinking is None else session.thinking
    return "auto (the template's default)" if chosen is None else "on" if chosen else "off"


def _model(context: Context, rest: str) -> Outcome:
    session = context.session
    if not rest:
        return Table(tuple(model_facts(session)), note="/model NAME [key=value …] loads another")
    before = session.model.arguments.model_name_or_path
    try:
        session.switch(_model_arguments(session, overrides.split_words(rest)))
    except (EngineroomError, KeyboardInterrupt):
        session.notices.append(f"{before} is still here; the conversation is unchanged")
        raise
    return Notice(
        f"now talking to {session.model.arguments.model_name_or_path} on {session.model.engine.name}"
    )


def _model_arguments(session: Session, words: Sequence[str]) -> dict[str, Any]:
    """A new name starts from its own defaults, on the same engine; settings alone change the model that is here."""
    now = session.model.arguments.model_dump(exclude_unset=True)
    if is_config_file(words[0]):
        return parse_words(words)
    if "=" in words[0] or words[0].startswith("--"):
        return now | parse_words(words)
    stays = {
        name: now[name] for name in ("infer_backend", "device", "cache_dir", "hf_hub_token") if name in now
    }
    return stays | {"model_name_or_path": words[0]} | parse_words(words[1:])


def _adapter(context: Context, rest: str) -> Outcome:
    session = context.session
    if not rest:
        return _adapters(session)
    action, _, words = rest.partition(" ")
    name, _, path = words.strip().partition(" ")
    if action == "load" and name and path.strip():
        session.model.load_adapter(name, path.strip())
        return Notice(f"loaded {name}; /set adapter={name} answers with it")
    if action == "unload" and name and not path:
        if session.overrides.get("adapter") == name:
            raise ArgumentError(
                f"{name} answers here", why="/set adapter chose it", fix="/set adapter=default, then again"
            )
        session.model.unload_adapter(name)
        return Notice(f"unloaded {name}")
    raise ArgumentError(
        f"/adapter {rest} is not a way to say it",
        why="allowed: /adapter, /adapter load NAME PATH, /adapter unload NAME",
        fix="/help adapter",
    )


def _adapters(session: Session) -> Outcome:
    rows = [(name, str(path)) for name, path in session.model.adapters.items()]
    if not rows:
        return Notice("there are no adapters to choose from; /adapter load NAME PATH loads one")
    return Table(tuple(rows), note="/set adapter=NAME answers with one; /set adapter=default with none")


def model_facts(session: Session) -> list[tuple[str, str]]:
    """What answers, for people."""
    model = session.model
    checkpoint = model.engine.checkpoint
    facts = [("model", model.arguments.model_name_or_path), ("engine", model.engine.name)]
    if checkpoint is not None:
        facts += [("folder", str(checkpoint.path)), ("architecture", checkpoint.architecture)]
        facts += [("parameters", f"{checkpoint.parameters:,}")] if checkpoint.parameters else []
    facts.append(("context", f"{model.context_length:,} tokens" if model.context_length else "unknown"))
    facts.append(("template", model.renderer.template.name or model.renderer.template.origin))
    return facts


# --- files ------------------------------------------------------------------------------------------------------


def _save(context: Context, rest: str) -> Outcome:
    session = context.session
    _needs(rest, "/save NAME, or /save FILE.json")
    if not session.messages:
        raise ArgumentError("there is nothing to save yet", fix="ask something first")
    if _is_file(rest):
        return _write(context, Path(rest if Path(rest).suffix else f"{rest}.json"))
    store, number = session.keeper.store, session.keeper.number
    if store is None or number is None:
        raise HistoryError(
            "conversations are not kept here",
            why="the history is off",
            fix=f"/save {rest}.json writes a file",
        )
    if rest.isdecimal():
        raise ArgumentError(
            f"{rest!r} can't be a name", why="conversations have numbers already", fix="use letters"
        )
    store.rename(number, rest)
    return Notice(f"kept as {rest!r}; /load {rest} brings it back")


def _load(context: Context, rest: str) -> Outcome:
    session = context.session
    store = session.keeper.store
    if not rest:
        if store is None:
            raise ArgumentError("name a file", why="the history is off", fix="/load FILE.json")
        return Table(
            tuple(summary_row(s) for s in store.recent(10) if s.id != session.keeper.number),
            note="/load NUMBER, /load NAME, or /load FILE.json; `engineroom logs` searches",
        )
    kept = store.get(rest) if store is not None else None
    if kept is not None:
        session.resume(kept)
        return Shown(f"loaded {kept.summary.title!r}")
    if not _is_file(rest):
        names = store.names() if store is not None else []
        guess = nearest(rest, names)
        raise ArgumentError(
            f"no conversation is called {rest!r}",
            fix=f"did you mean {guess}?" if guess else "/load without a name lists the latest ones",
        )
    session.load_messages(transcript.read(Path(rest).expanduser()))
    return Shown(f"loaded {rest}")


def summary_row(summary: Summary) -> tuple[str, str, str, str]:
    """A kept conversation as a row: number, title, model, when."""
    when = summary.updated.astimezone().strftime("%Y-%m-%d %H:%M")
    return str(summary.id), summary.title, summary.model, when


def _export(context: Context, rest: str) -> Outcome:
    _needs(rest, "/export FILE.md, FILE.json or FILE.jsonl")
    if not context.session.messages:
        raise ArgumentError("there is nothing to export yet", fix="ask something first")
    return _write(context, Path(rest))


def _write(context: Context, path: Path) -> Outcome:
    path = path.expanduser()
    if path.exists() and path.resolve() not in context.written:
        raise ArgumentError(f"{str(path)!r} is there already", fix="choose another name, or remove that file")
    model = context.session.model
    facts = {"model": model.arguments.model_name_or_path, "engine": model.engine.name}
    transcript.write(path, context.session.whole, facts)
    context.written.add(path.resolve())
    return Notice(f"wrote {path}")


def _is_file(word: str) -> bool:
    return Path(word).suffix in transcript.SUFFIXES or "/" in word


# --- the rest ---------------------------------------------------------------------------------------------------


def _stats(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/stats")
    session, answers = context.session, context.session.answers
    speeds = [speed for a in answers if (speed := tokens_per_second(a)) is not None]
    waits = [a.first_token_seconds for a in answers if a.first_token_seconds is not None]
    used, size = session.context_used, session.model.context_length
    rows = [
        ("answers", str(len(answers))),
        ("prompt tokens", f"{sum(a.prompt_tokens or 0 for a in answers):,}"),
        ("tokens generated", f"{sum(a.completion_tokens or 0 for a in answers):,}"),
        ("speed", f"{sum(speeds) / len(speeds):.1f} tokens/s on average" if speeds else "not measured yet"),
        ("to first token", f"{sum(waits) / len(waits):.2f} s on average" if waits else "not measured yet"),
        ("context", f"{used or 0:,} of {size:,} tokens" if size else f"{used or 0:,} tokens"),
    ]
    return Table(tuple(rows))


def _clear(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/clear")
    number = context.session.clear()
    return Notice("a new conversation" + (f"; the last one is kept: /load {number}" if number else ""))


def _exit(context: Context, rest: str) -> Outcome:
    _no_more(rest, "/exit")
    return Leave()


def _help(context: Context, rest: str) -> Outcome:
    if rest:
        command = find(rest)
        return Table(((command.usage, command.summary),), note=command.details)
    return Table(tuple((c.usage, c.summary) for c in COMMANDS.values()), note=_KEYS)


_KEYS = """\
Enter sends; Alt-Enter (or Esc, then Enter) begins a new line; a message between lines of \"\"\" may have any number.
Up and Down recall what was typed, Ctrl-R searches it, Ctrl-X Ctrl-E opens your editor.
Ctrl-C stops an answer and keeps the part that came; at an empty prompt, twice leaves, as Ctrl-D does."""


def _needs(rest: str, usage: str) -> None:
    if not rest:
        raise ArgumentError("a name is missing", fix=usage)


def _no_more(rest: str, name: str) -> None:
    if rest:
        raise ArgumentError(f"{name} takes nothing more", why=f"{rest!r} would be ignored", fix=name)


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command("help", "/help [COMMAND]", "what there is", _help),
        Command("regen", "/regen", "answer the last message again", _regen),
        Command(
            "continue", "/continue", "go on with an answer that was cut or stopped", _continue,
            "The model goes on right behind what is there, as if it had never stopped.",
        ),
        Command(
            "edit", "/edit [NEW TEXT]", "change the last message and send it again", _edit,
            "Without a text, the message opens in $VISUAL or $EDITOR. Left unchanged, it is not sent.",
        ),
        Command("undo", "/undo", "take the last message and its answer back", _undo),
        Command(
            "system", "/system [TEXT]", "show or change the system prompt", _system,
            "/system default is the one that the chat was started with; /system none has none.",
        ),
        Command(
            "set", "/set [name=value …]", "show or change how answers are drawn", _set,
            f"Names: {', '.join(overrides.settable())}. /set name=default takes one back.",
        ),
        Command(
            "think", "/think [on|off|auto]", "think before answering, where the template can", _think,
            "auto leaves it to the chat template.",
        ),
        Command(
            "model", "/model [NAME] [key=value …]", "show the model, or load another and keep the conversation", _model,
            "A NAME starts from its own defaults on the same engine; settings alone load this model again with them. "
            "The new one is loaded before the old one goes, so that nothing is lost if it fails; both need memory for "
            "a moment.",
        ),
        Command(
            "adapter", "/adapter [load NAME PATH | unload NAME]", "show, load or unload LoRA adapters", _adapter,
            "/set adapter=NAME answers with one that is loaded. vLLM needs room for them: enable_lora=true at the "
            "start.",
        ),
        Command(
            "save", "/save NAME | FILE.json", "name the conversation, or write it to a file", _save,
            "A name can be loaded with /load, here and in later chats.",
        ),
        Command(
            "load", "/load [NUMBER | NAME | FILE]", "go on with a kept conversation or one from a file", _load,
            "Files are /save's and /export's .json and .jsonl, OpenAI's messages, or ShareGPT's.",
        ),
        Command(
            "export", "/export FILE.md | .json | .jsonl", "write the conversation to a file", _export,
            ".md is for reading, .json has everything, .jsonl is one line of fine-tuning data.",
        ),
        Command("stats", "/stats", "tokens, speed and context of this session", _stats),
        Command("clear", "/clear", "begin a new conversation (the plain word clear does, too)", _clear),
        Command("exit", "/exit", "leave (the plain word exit does, too)", _exit),
    )
}  # fmt: skip
"""Every command by name, in the order of ``/help``."""
