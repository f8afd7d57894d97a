"""The caller's dicts as messages and tools. They are read, never changed; whatever is malformed is refused by place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, cast

from engineroom.errors import MessageError, nearest, shown
from engineroom.types import (
    AudioPart,
    ImagePart,
    MediaPart,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    VideoPart,
)

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "function": "assistant",  # LLaMA-Factory: the assistant's tool calls as JSON; with a name OpenAI's: a tool's result
    "tool": "tool",
    "observation": "tool",  # LLaMA-Factory: a tool's result
}
_KEYS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal", "id"}
)
_OWNERS: Mapping[str, Role] = {
    "tool_calls": "assistant",
    "reasoning_content": "assistant",
    "refusal": "assistant",
    "tool_call_id": "tool",
}
"""Keys that belong to one role. An ``id`` belongs to whoever keeps the conversation, and means nothing here."""
_EMPTY_KEYS = frozenset({"audio", "annotations", "function_call"})
"""Keys of OpenAI's answers that clients send back; they mean nothing as long as they are empty."""

_MEDIA = {
    "image": ImagePart, "image_url": ImagePart, "video": VideoPart, "video_url": VideoPart,
    "audio": AudioPart, "audio_url": AudioPart, "input_audio": AudioPart,
}  # fmt: skip


def parse_messages(
    messages: Any, *, system: str | None = None, images: Any = None, videos: Any = None, audios: Any = None
) -> tuple[Message, ...]:
    """Reads a conversation: LLaMA-Factory's, OpenAI's, or one user message as a string.

    Raises:
        MessageError: what is wrong, and where (``messages[2].content``).
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        raise MessageError(
            f"messages can't be a {type(messages).__name__}",
            why="a list of mappings with role and content, or a string",
        )
    if not messages:
        raise MessageError("messages is empty", fix='give at least one: [{"role": "user", "content": "Hi"}]')
    items = cast("Sequence[Any]", messages)
    parsed = [_message(item, f"messages[{place}]") for place, item in enumerate(items)]
    if system is not None:
        if any(message.role == "system" for message in parsed):
            raise MessageError("there is a system message and a system argument", fix="give one of the two")
        parsed.insert(0, Message("system", (TextPart(_text(system, "system")),)))
    media: list[MediaPart] = []
    for kind, name, sources in (
        (ImagePart, "images", images), (VideoPart, "videos", videos), (AudioPart, "audios", audios)
    ):  # fmt: skip
        if sources is None:
            continue
        if not isinstance(sources, Sequence) or isinstance(sources, (str, bytes)):
            raise MessageError(f"{name} must be a list")
        media += [kind(source, f"{name}[{i}]") for i, source in enumerate(cast("Sequence[Any]", sources))]
    if media:
        parsed[0] = replace(parsed[0], parts=(*media, *parsed[0].parts))
    return tuple(parsed)


def _message(item: Any, place: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise MessageError(
            f"{place} is a {type(item).__name__}", why="a message is a mapping with role and content"
        )
    message = cast("Mapping[str, Any]", item)
    role = _role(message.get("role"), f"{place}.role")
    if message["role"] == "function" and message.get("name") is not None:
        role = "tool"
    _check_keys(message, role, place)
    if message["role"] == "function" and role == "assistant":
        return Message(role, tuple(_legacy_calls(message.get("content"), f"{place}.content")))
    calls = _tool_calls(message.get("tool_calls"), f"{place}.tool_calls")
    name = _optional_text(message.get("name"), f"{place}.name")
    content = message.get("content")
    parts: list[Part] = []
    if (thought := message.get("reasoning_content")) is not None:
        parts.append(ReasoningPart(_text(thought, f"{place}.reasoning_content")))
    refusal = _optional_text(message.get("refusal"), f"{place}.refusal")
    if content is not None or not (calls or refusal):
        parts += _parts(content, f"{place}.content")
    if refusal:
        parts.append(TextPart(refusal))
    if role == "tool":
        call_id = _optional_text(message.get("tool_call_id"), f"{place}.tool_call_id")
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        media = [part for part in parts if not isinstance(part, TextPart)]
        return Message(role, (*media, ToolResultPart(text, name, call_id)))
    return Message(role, (*parts, *calls), name)


def _role(name: object, place: str) -> Role:
    if isinstance(name, str) and name in _ROLES:
        return _ROLES[name]
    guess = nearest(name, _ROLES) if isinstance(name, str) else None
    raise MessageError(
        f"{place} is {shown(name)}",
        why=f"roles: {', '.join(_ROLES)}",
        fix=f"did you mean {guess}?" if guess else "choose one of them",
    )


def _check_keys(message: Mapping[str, Any], role: Role, place: str) -> None:
    for key, value in message.items():
        if key in _EMPTY_KEYS and not value:
            continue
        if key not in _KEYS:
            guess = nearest(key, _KEYS) if isinstance(key, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MessageError(
                f"{_inner(place, key)} is an unknown key",
                why=f"keys: {', '.join(sorted(_KEYS))}",
                fix=f"did you mean {guess}?" if guess else f"remove {shown(key)}",
            )
        if value and _OWNERS.get(key, role) != role:
            raise MessageError(
                f"{place}.{key} belongs to a message of the {_OWNERS[key]} role, not to {message['role']}",
                fix=f"remove {key}, or correct the role",
            )


def _optional_text(value: object, place: str) -> str | None:
    return None if value is None else _text(value, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise MessageError(
            f"{place} is {'null' if value is None else type(value).__name__}", why="it must be text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(
            f"{place} holds half a character", why=str(error), fix="send valid Unicode text"
        ) from error
    return value


def _parts(content: Any, place: str) -> list[Part]:
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        return [_part(part, f"{place}[{i}]") for i, part in enumerate(cast("Sequence[Any]", content))]
    return [TextPart(_text(content, place))]


def _part(item: Any, place: str) -> Part:
    if not isinstance(item, Mapping):
        raise MessageError(
            f"{place} is a {type(item).__name__}", why='a part is a mapping such as {"type": "text", …}'
        )
    part = cast("Mapping[str, Any]", item)
    kind = part.get("type")
    if kind in ("text", "refusal"):
        _check_part(part, {kind, "value"}, place)
        return TextPart(_text(part.get(kind, part.get("value")), f"{place}.{kind}"))
    if isinstance(kind, str) and kind in _MEDIA:
        _check_part(part, {kind, "value"}, place)
        return _MEDIA[kind](part.get(kind, part.get("value")), place)
    raise MessageError(f"{place}.type is {shown(kind)}", why=f"types: text, refusal, {', '.join(_MEDIA)}")


def _check_part(part: Mapping[str, Any], keys: Set[str], place: str) -> None:
    for key, value in part.items():
        if key != "type" and key not in keys and value is not None:
            raise MessageError(f"{_inner(place, key)} is an unknown key", fix=f"remove {shown(key)}")


def _inner(place: str, key: object) -> str:
    """The place of a mapping's key, as far as it can be written as one."""
    return f"{place}.{key}" if isinstance(key, str) and key.isidentifier() else f"{place}[{shown(key)}]"


def _tool_calls(value: Any, place: str) -> list[ToolCallPart]:
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise MessageError(f"{place} must be a list")
    return [_call(item, f"{place}[{i}]") for i, item in enumerate(cast("Sequence[Any]", value))]


def _legacy_calls(content: Any, place: str) -> list[ToolCallPart]:
    value = _json(_text(content, place), place)
    calls: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [_call(item, f"{place}[{i}]") for i, item in enumerate(calls)]


def _call(item: Any, place: str) -> ToolCallPart:
    if not isinstance(item, Mapping):
        raise MessageError(f"{place} must be a mapping")
    outer = cast("Mapping[str, Any]", item)
    function: Any = outer.get("function", outer)
    if not isinstance(function, Mapping):
        raise MessageError(f"{place}.function must be a mapping")
    call = cast("Mapping[str, Any]", function)
    arguments: object = call.get("arguments")
    if isinstance(arguments, str) and arguments:
        arguments = _json(arguments, f"{place}.arguments")
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{place}.arguments must be a JSON object")
    return ToolCallPart(
        _text(call.get("name"), f"{place}.name"),
        dict(cast("Mapping[str, Any]", arguments)),
        _optional_text(outer.get("id"), f"{place}.id"),
    )


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{place} is not valid JSON", why=str(error)) from error


_TOOL_KEYS = ("name", "description", "parameters", "strict", "type")


def parse_tools(tools: Any) -> tuple[Tool, ...]:
    """Reads tools: None, LLaMA-Factory's JSON text, or a list of OpenAI's or bare definitions.

    Raises:
        MessageError: what is wrong, and where (``tools[1].name``).
    """
    if tools is None or tools == "":
        return ()
    if isinstance(tools, str):
        tools = _json(tools, "tools")
    if not isinstance(tools, Sequence):
        raise MessageError("tools must be a list of function definitions")
    return tuple(_tool(item, f"tools[{i}]") for i, item in enumerate(cast("Sequence[Any]", tools)))


def _tool(item: Any, place: str) -> Tool:
    if isinstance(item, Tool):
        return item
    if not isinstance(item, Mapping):
        raise MessageError(f"{place} must be a mapping")
    outer = cast("Mapping[str, Any]", item)
    function: Any = outer.get("function", outer)
    if not isinstance(function, Mapping) or outer.get("type", "function") != "function":
        raise MessageError(f"{place} is not a function", why='{"type": "function", "function": {"name": …}}')
    definition = cast("Mapping[str, Any]", function)
    unknown = next((key for key in definition if key not in _TOOL_KEYS), None)
    if unknown is not None:
        raise MessageError(
            f"{_inner(place, unknown)} is an unknown key", why=f"keys: {', '.join(_TOOL_KEYS)}"
        )
    parameters: object = definition.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise MessageError(f"{place}.parameters must be a JSON Schema object")
    return Tool(
        _text(definition.get("name"), f"{place}.name"),
        _optional_text(definition.get("description"), f"{place}.description") or "",
        dict(cast("Mapping[str, Any]", parameters)),
    )
