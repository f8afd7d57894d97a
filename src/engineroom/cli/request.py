"""A conversation for one prompt: from ``-p``, from JSON files, or from standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engineroom.errors import ArgumentError, MessageError


@dataclass(frozen=True, slots=True)
class Request:
    """Messages and tools as they were written, not yet checked."""

    messages: Any
    tools: Any = None


def read_request(prompt: str | None, messages: str | None, tools: Path | None) -> Request:
    """The conversation that the options name.

    Args:
        prompt: the text of a user message.
        messages: a JSON file, or ``-`` for standard input.
        tools: a JSON file of function definitions.

    Raises:
        ArgumentError: nothing or too much was named, or a file can't be read.
        MessageError: a file does not hold JSON.
    """
    request = _conversation(prompt, messages)
    if tools is None:
        return request
    if request.tools is not None:
        raise ArgumentError("tools come with the messages and from --tools", fix="give them once")
    return Request(request.messages, _json(_read(tools), str(tools)))


def _conversation(prompt: str | None, messages: str | None) -> Request:
    if prompt is not None and messages is not None:
        raise ArgumentError("there are -p and --messages", fix="give one of the two")
    if prompt is not None:
        return Request(prompt)
    if messages == "-":
        return _from_json(_json(read_stdin(), "standard input"), "standard input")
    if messages is not None:
        return _from_json(_json(_read(Path(messages)), messages), messages)
    if sys.stdin.isatty():
        raise ArgumentError(
            "there is no message", fix='give one with -p "…", --messages FILE, or standard input'
        )
    return _from_text(read_stdin())


def _from_text(text: str) -> Request:
    """Standard input without ``--messages -``: JSON if it is a conversation's, else a user's words."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return _from_json(json.loads(text), "standard input")
        except (ValueError, RecursionError):
            pass
    text = text.strip()
    if not text:
        raise ArgumentError("there is no message", why="standard input is empty", fix='give one with -p "…"')
    return Request(text)


def _from_json(value: Any, source: str) -> Request:
    if not isinstance(value, dict):
        return Request(value)
    request = cast("dict[str, Any]", value)
    unknown = sorted(set(request) - {"messages", "tools"})
    if unknown or "messages" not in request:
        raise MessageError(
            f"{source} is an object with {', '.join(sorted(request)) or 'nothing in it'}",
            why="a conversation is a list of messages, or an object with messages and, if need be, tools",
        )
    return Request(request["messages"], request.get("tools"))


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{source} does not hold JSON", why=str(error), fix="correct it there") from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except OSError as error:
        why = error.strerror or str(error)
        raise ArgumentError(f"can't read {str(file)!r}", why=why, fix="check the path") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{str(file)!r} is not UTF-8 text", why=str(error)) from error


def read_stdin() -> str:
    """All of standard input.

    Raises:
        ArgumentError: it is not UTF-8 text.
    """
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ArgumentError("standard input is not UTF-8 text", why=str(error)) from error
