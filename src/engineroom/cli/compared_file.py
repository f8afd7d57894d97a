"""Conversations from a file of JSON lines, for ``engineroom compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from engineroom.comparison import ComparedConversation
from engineroom.errors import ArgumentError, MessageError

_EXAMPLE = '{"messages": [{"role": "user", "content": "…"}]}'


def read_conversations(file: Path) -> tuple[ComparedConversation, ...]:
    """Each line is an object with messages (and tools, and an id), a list of messages, or a user's words as a string.

    Raises:
        ArgumentError: the file can't be read, or is empty.
        MessageError: a line is none of these, or its messages are malformed.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        why = error.strerror or str(error)
        raise ArgumentError(f"can't read {str(file)!r}", why=why, fix="check the path") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{str(file)!r} is not UTF-8 text", why=str(error)) from error
    found = tuple(_conversation(line, f"line {n}") for n, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise ArgumentError(f"{str(file)!r} is empty", fix=f"a line is {_EXAMPLE}")
    return found


def _conversation(line: str, place: str) -> ComparedConversation:
    from engineroom.render import parse_messages, parse_tools

    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MessageError(
            f"{place} is not valid JSON", why=str(error), fix=f"a line is {_EXAMPLE}"
        ) from error
    item: dict[str, Any] = cast("dict[str, Any]", value) if isinstance(value, dict) else {"messages": value}
    unknown = sorted(set(item) - {"messages", "tools", "id"})
    if unknown or "messages" not in item:
        raise MessageError(
            f"{place} has {', '.join(unknown) or 'no messages'}",
            why="keys: messages, tools, id",
            fix=f"a line is {_EXAMPLE}",
        )
    try:
        parse_messages(item["messages"])
        parse_tools(item.get("tools"))
    except MessageError as error:
        raise MessageError(f"{place}: {error.what}", why=error.why, fix=error.fix) from error
    return ComparedConversation(str(item.get("id", place)), item["messages"], item.get("tools"))
