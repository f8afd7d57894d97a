"""Conversations as files: JSON and JSON lines to go on with elsewhere, Markdown to read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engineroom.cli.conversation import Said, Speaker
from engineroom.errors import ArgumentError, nearest

SUFFIXES = (".md", ".json", ".jsonl")

_SPEAKERS: Mapping[str, Speaker] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
"""OpenAI's names, and ShareGPT's."""


def write(path: Path, messages: Sequence[Said], facts: Mapping[str, Any]) -> None:
    """Writes a conversation in the format that the file's ending names.

    Args:
        facts: what is worth knowing beside the messages: the model, the engine, its settings.

    Raises:
        ArgumentError: the ending is unknown, or the file can't be written.
    """
    formats = {".md": _markdown, ".json": _json, ".jsonl": _json_line}
    if path.suffix not in formats:
        guess = nearest(path.suffix, SUFFIXES)
        raise ArgumentError(
            f"can't tell the format of {str(path)!r}",
            why=f"endings: {', '.join(SUFFIXES)}",
            fix=f"did you mean {path.stem}{guess}?" if guess else f"name it {path.name}.md",
        )
    text = formats[path.suffix](messages, facts)
    try:
        _replace_file(path, text)
    except OSError as error:
        raise ArgumentError(f"can't write {str(path)!r}", why=str(error), fix="name another file") from error


def read(path: Path) -> tuple[Said, ...]:
    """The conversation in a ``.json`` or ``.jsonl`` file: ours, OpenAI's messages, or ShareGPT's.

    Raises:
        ArgumentError: the file can't be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value: Any = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" and text else text)
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"can't read a conversation from {str(path)!r}",
            why=str(error),
            fix="name a .json or .jsonl file, or a kept conversation by name or number",
        ) from error
    if isinstance(value, Mapping):
        holder = cast("Mapping[str, Any]", value)
        value = holder.get("messages", holder.get("conversations"))
    if not isinstance(value, list):
        raise ArgumentError(
            f"{str(path)!r} holds no conversation",
            why='a conversation is a list of messages, or an object with "messages" in it',
        )
    return tuple(_said(item, f"message {place}") for place, item in enumerate(cast("list[Any]", value), 1))


def _said(item: Any, place: str) -> Said:
    message: Mapping[str, Any] = cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {}
    role: Any = message.get("role", message.get("from"))
    content: Any = message.get("content", message.get("value"))
    if role not in _SPEAKERS:
        raise ArgumentError(
            f"{place} is from {role!r}",
            why=f"the terminal knows {', '.join(_SPEAKERS)}",
            fix="remove that message from the file",
        )
    if not isinstance(content, str):
        raise ArgumentError(f"{place} is not plain text", why="the terminal shows text only")
    thought: Any = message.get("reasoning_content")
    ended: Any = message.get("finish_reason")
    return Said(
        _SPEAKERS[role],
        content,
        reasoning=thought if isinstance(thought, str) else "",
        ended=ended if isinstance(ended, str) else None,
    )


def _json(messages: Sequence[Said], facts: Mapping[str, Any]) -> str:
    items = [
        m.as_message() | ({"finish_reason": m.ended} if m.role == "assistant" and m.ended else {})
        for m in messages
    ]
    return json.dumps({**facts, "messages": items}, ensure_ascii=False, indent=2, default=str) + "\n"


def _json_line(messages: Sequence[Said], facts: Mapping[str, Any]) -> str:
    """One line in the form of fine-tuning data."""
    return json.dumps({"messages": [m.as_message() for m in messages]}, ensure_ascii=False) + "\n"


def _markdown(messages: Sequence[Said], facts: Mapping[str, Any]) -> str:
    parts = [f"# {facts.get('model', 'Conversation')}\n"]
    for message in messages:
        parts.append(f"## {message.role.capitalize()}\n")
        if message.reasoning:
            quoted = "\n".join(f"> {line}".rstrip() for line in message.reasoning.strip().splitlines())
            parts.append(f"{quoted}\n")
        parts.append(f"{message.text.strip()}\n")
    return "\n".join(parts)


def _replace_file(path: Path, text: str) -> None:
    """Writes beside the file and moves into its place, so that a full disk leaves the old one whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8", errors="replace")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
