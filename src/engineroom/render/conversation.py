"""The caller's dicts as messages and tools. They are read, never changed; whatever is malformed is refused by place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from engineroom.errors import MessageError, nearest
from engineroom.types import (
    AudioPart,
    ImagePart,
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
    "function": "assistant",  # LLaMA-Factory: the assistant's tool calls as JSON
    "tool": "tool",
    "observation": "tool",  # LLaMA-Factory: a tool's result
}
_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "id"})
_EMPTY_KEYS = frozenset({"refusal", "audio", "annotations", "function_call"})
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
    media: list[Part] = []
    for kind, name, sources in (
        (ImagePart, "images", images), (VideoPart, "videos", videos), (AudioPart, "audios", audios)
    ):  # fmt: skip
        if sources is None:
            continue
        if not isinstance(sources, Sequence) or isinstance(sources, (str, bytes)):
            raise MessageError(f"{name} must be a list")
        media += [kind(source) for source in cast("Sequence[Any]", sources)]
    if media:
        parsed[0] = Message(parsed[0].role, (*media, *parsed[0].parts))
    return tuple(parsed)


def _message(item: Any, place: str) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise MessageError(
            f"{place} is a {type(item).__name__}", why="a message is a mapping with role and content"
        )
    message = cast("Mapping[str, Any]", item)
    _check_keys(message, place)
    name = message.get("role")
    if not isinstance(name, str) or name not in _ROLES:
        guess = nearest(name, _ROLES) if isinstance(name, str) else None
        raise MessageError(
            f"{place}.role is {name!r}",
            why=f"roles: {', '.join(_ROLES)}",
            fix=f"did you mean {guess}?" if guess else "choose one of them",
        )
    role = _ROLES[name]
    if name == "function":
        return Message(role, tuple(_legacy_calls(message.get("content"), f"{place}.content")))
    calls = _tool_calls(message.get("tool_calls"), role, f"{place}.tool_calls")
    content = message.get("content")
    parts: list[Part] = []
    if (thought := message.get("reasoning_content")) is not None:
        parts.append(ReasoningPart(_text(thought, f"{place}.reasoning_content")))
    if content is not None or not calls:
        parts += _parts(content, f"{place}.content")
    if role == "tool":
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        return Message(role, (ToolResultPart(text, message.get("name"), message.get("tool_call_id")),))
    return Message(role, (*parts, *calls))


def _check_keys(message: Mapping[str, Any], place: str) -> None:
    for key, value in message.items():
        if key in _KEYS or (key in _EMPTY_KEYS and not value):
            continue
        guess = nearest(str(key), _KEYS)
        raise MessageError(
            f"{place} has an unknown key {key!r}",
            why=f"keys: {', '.join(sorted(_KEYS))}",
            fix=f"did you mean {guess}?" if guess else f"remove {key}",
        )


def _text(value: Any, place: str) -> str:
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
    if kind == "text":
        return TextPart(_text(part.get("text", part.get("value")), f"{place}.text"))
    if isinstance(kind, str) and kind in _MEDIA:
        return _MEDIA[kind](part.get(kind, part.get("value")))
    raise MessageError(f"{place}.type is {kind!r}", why=f"types: text, {', '.join(_MEDIA)}")


def _tool_calls(value: Any, role: Role, place: str) -> list[ToolCallPart]:
    if value is None or value == []:
        return []
    if role != "assistant":
        raise MessageError(f"{place} belongs to an assistant message, not to {role}")
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
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{place}.arguments") if arguments else {}
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{place}.arguments must be a JSON object")
    return ToolCallPart(
        _text(call.get("name"), f"{place}.name"), dict(cast("Mapping[str, Any]", arguments)), outer.get("id")
    )


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{place} is not valid JSON", why=str(error)) from error


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
    unknown = set(definition) - {"name", "description", "parameters", "strict", "type"}
    if unknown:
        raise MessageError(f"{place} has an unknown key {min(unknown)!r}")
    parameters = definition.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise MessageError(f"{place}.parameters must be a JSON Schema object")
    return Tool(
        _text(definition.get("name"), f"{place}.name"),
        _text(definition.get("description") or "", f"{place}.description"),
        dict(cast("Mapping[str, Any]", parameters)),
    )
