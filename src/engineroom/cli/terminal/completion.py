"""What Tab offers: commands, their arguments, settings, models, conversations and files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from engineroom import demo
from engineroom.cli.terminal import overrides, transcript
from engineroom.cli.terminal.commands import COMMANDS
from engineroom.cli.terminal.session import Session
from engineroom.config import describe
from engineroom.errors import HistoryError

Offer: TypeAlias = tuple[str, str]
"""A word, and what it means."""


class CommandCompleter(Completer):
    """Completes slash commands and what follows them; says nothing while a message is typed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, rest = text[1:].partition(" ")
        word = rest.rpartition(" ")[2] if space else text
        for offered, meaning in self._offers(command, rest, word) if space else _commands():
            if offered.startswith(word) and offered != word:
                yield Completion(offered, start_position=-len(word), display_meta=meaning)

    def _offers(self, command: str, rest: str, word: str) -> Iterator[Offer]:
        words: Mapping[str, Callable[[], Iterator[Offer]]] = {
            "help": lambda: ((c.name, c.summary) for c in COMMANDS.values()),
            "think": lambda: iter((("on", ""), ("off", ""), ("auto", "the template's default"))),
            "system": lambda: iter((("default", "as the chat was started"), ("none", "no system prompt"))),
            "set": lambda: _settings(word, frozenset(overrides.settable()), default=True),
            "model": lambda: self._models(word, first=" " not in rest),
            "adapter": lambda: self._adapters(rest, word),
            "load": lambda: self._kept(word),
            "save": lambda: _files(word, (".json",)),
            "export": lambda: _files(word, transcript.SUFFIXES),
        }
        if command in words and (" " not in rest or command in ("set", "model", "adapter")):
            yield from words[command]()

    def _models(self, word: str, *, first: bool) -> Iterator[Offer]:
        if first:
            yield from ((name, "ships inside") for name in demo.NAMES)
            yield from _files(word, (".yaml", ".yml"))
        yield from _settings(word, None, default=False)

    def _adapters(self, rest: str, word: str) -> Iterator[Offer]:
        before = rest.split(" ")[:-1]
        if not before:
            yield from (("load", "NAME PATH"), ("unload", "NAME"))
        elif before == ["unload"]:
            yield from ((name, str(path)) for name, path in self._session.model.adapters.items())
        elif before[0] == "load" and len(before) == 2:
            yield from _files(word, ())

    def _kept(self, word: str) -> Iterator[Offer]:
        store = self._session.keeper.store
        with contextlib.suppress(HistoryError):  # completion is no place to report it; /load will
            yield from ((name, "kept conversation") for name in (store.names() if store else ()))
        yield from _files(word, (".json", ".jsonl"))


def _commands() -> Iterator[Offer]:
    return ((f"/{command.name}", command.summary) for command in COMMANDS.values())


def _settings(word: str, names: frozenset[str] | None, *, default: bool) -> Iterator[Offer]:
    """Names of settings; behind ``name=``, the values where there are few."""
    name, equals, _ = word.partition("=")
    for doc in describe():
        if names is not None and doc.name not in names:
            continue
        if not equals:
            yield f"{doc.name}=", doc.help
        elif doc.name == name:
            yield from ((f"{name}={value}", "") for value in _values(doc.type))
            if default:
                yield f"{name}={overrides.DEFAULT}", "take it back"


def _values(kind: str) -> list[str]:
    """The allowed values of a setting, where they are words to choose from."""
    words = [word.strip() for word in kind.split("|")]
    return (
        [w for w in words if w.isidentifier() or w.isdecimal()]
        if len(words) > 1 and _is_choice(words)
        else []
    )


def _is_choice(words: list[str]) -> bool:
    return not {"text", "integer", "number", "object"} & {word.partition(",")[0] for word in words}


def _files(word: str, suffixes: Iterable[str]) -> Iterator[Offer]:
    """Folders, and files with these endings, that ``word`` is the beginning of."""
    head, slash, _ = word.rpartition("/")
    try:
        entries = sorted(Path(f"{head}{slash}" or ".").expanduser().iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield f"{head}{slash}{entry.name}/", "folder"
        elif entry.suffix in suffixes:
            yield f"{head}{slash}{entry.name}", ""
