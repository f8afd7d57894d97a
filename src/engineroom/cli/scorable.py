"""What can be scored or embedded, read from a command's words, from lines of text, or from JSON lines."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from engineroom.errors import MessageError, nearest

if TYPE_CHECKING:
    from engineroom.call import Conversation

_KEYS = ("text", "messages", "id")


@dataclass(frozen=True, slots=True)
class Scorable:
    """One text or conversation.

    Attributes:
        index: its place in the input, from 0.
        place: where it stands, for people: ``line 3``.
        identity: the ``id`` that the input gave it, under that key; empty if it gave none.
    """

    index: int
    place: str
    content: Conversation
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_words(texts: Sequence[str]) -> Generator[Scorable, None, None]:
    for index, text in enumerate(texts):
        yield Scorable(index, f"text {index + 1}", text)


def read_lines(lines: Iterable[str]) -> Generator[Scorable, None, None]:
    """A text a line; or, if the first line is a JSON object with text or messages, an object a line.

    Raises:
        MessageError: a line is empty, is not UTF-8, or is not what the first line announced.
    """
    decoded = _decoded(lines)
    first = next(decoded, None)
    if first is None:
        return
    as_objects = _announces_objects(first)
    for index, line in enumerate(chain((first,), decoded)):
        place = f"line {index + 1}"
        if not line.strip():
            raise MessageError(f"{place} is empty", why="each line is a text", fix="remove empty lines")
        yield _from_object(index, place, line) if as_objects else Scorable(index, place, line)


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        for line in lines:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise MessageError(
            "the input is not UTF-8 text", why=str(error), fix="convert it: iconv -t UTF-8 FILE"
        ) from error


def _announces_objects(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and ("text" in value or "messages" in value)


def _from_object(index: int, place: str, line: str) -> Scorable:
    example = '{"text": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MessageError(
            f"{place} is not valid JSON", why=f"the first line is a JSON object, so all must be: {error}",
            fix=f"a line is {example}",
        ) from error  # fmt: skip
    if not isinstance(value, dict):
        raise MessageError(f"{place} is not a JSON object", fix=f"a line is {example}")
    item = cast("dict[str, Any]", value)
    for key in item:
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            raise MessageError(
                f"{place} has an unknown key {key!r}",
                why=f"keys: {', '.join(_KEYS)}",
                fix=f"did you mean {guess}?" if guess else f"remove {key}",
            )
    if ("text" in item) == ("messages" in item):
        raise MessageError(f"{place} must have one of text and messages", fix=f"a line is {example}")
    content = item.get("text", item.get("messages"))
    if not isinstance(content, str if "text" in item else list):
        kind = "text" if "text" in item else "messages"
        raise MessageError(f"{place}: {kind} is a {type(content).__name__}", fix=f"a line is {example}")
    return Scorable(index, place, cast("Conversation", content), {"id": item["id"]} if "id" in item else {})
