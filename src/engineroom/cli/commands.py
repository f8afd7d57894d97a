"""``chat`` and ``score``: the plain forms, for a line at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from engineroom.chat import ChatModel
from engineroom.config import argument_names, is_config_file
from engineroom.errors import ArgumentError, EngineroomError, RequestError


def run(command: str, words: Sequence[str]) -> int:
    """Runs a command. Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted."""
    try:
        return chat(words) if command == "chat" else score(words)
    except (ArgumentError, RequestError) as error:
        print(f"engineroom: {error}", file=sys.stderr)
        return 2
    except EngineroomError as error:
        print(f"engineroom: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def chat(words: Sequence[str]) -> int:
    """Answers ``-p``, or what is piped in, or line after line until ``exit``."""
    prompt, rest = _option(words, "-p")
    system, rest = _option(rest, "-s")
    if rest and "=" not in rest[0] and not rest[0].startswith("-") and not is_config_file(rest[0]):
        rest = [f"model_name_or_path={rest[0]}", *rest[1:]]
    if not sys.stdin.isatty() and prompt is None:
        prompt = sys.stdin.read().strip()
    with ChatModel(rest) as model:
        if prompt is not None:
            _answer(model, [{"role": "user", "content": prompt}], system)
            return 0
        return _converse(model, system)


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


def score(words: Sequence[str]) -> int:
    """Prints one reward score for each text."""
    settings = [w for w in words if w.partition("=")[0] in argument_names()]
    texts = [w for w in words if w not in settings]
    if not texts:
        raise ArgumentError("there is nothing to score", fix='engineroom score "a text" "another"')
    if not any(w.startswith("model_name_or_path=") for w in settings):
        settings.append("model_name_or_path=demo-reward")
    with ChatModel(settings) as model:
        for value in model.get_scores(texts):
            print(f"{value:.6f}")
    return 0


def _option(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value after ``name``, and the other words."""
    rest = list(words)
    if name not in rest:
        return None, rest
    place = rest.index(name)
    if place + 1 == len(rest):
        raise ArgumentError(f"{name} needs a value")
    value = rest[place + 1]
    del rest[place : place + 2]
    return value, rest
