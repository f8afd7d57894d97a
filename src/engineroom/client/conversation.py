"""Messages and tools as OpenAI's JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engineroom.errors import MessageError
from engineroom.types import Message, Part, ReasoningPart, TextPart, Tool, ToolCallPart, ToolResultPart


def messages_to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """
    Raises:
        MessageError: a message holds an image, a video or sound.
    """
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def tools_to_wire(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    ]


def _message(message: Message, place: str) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.name is not None:
        wire["name"] = message.name
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        wire["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
        wire["content"] = message.text or None
    for part in message.parts:
        wire.update(_beside_text(part, place))
    return wire


def _beside_text(part: Part, place: str) -> dict[str, Any]:
    """The fields that a part has of its own."""
    match part:
        case ReasoningPart():
            return {"reasoning_content": part.text}
        case ToolResultPart():
            named = {"name": part.name} if part.name is not None else {}
            return {"content": part.text, "tool_call_id": part.call_id or "call_0", **named}
        case TextPart() | ToolCallPart():
            return {}
        case _:
            raise MessageError(
                f"{place} holds a {type(part).__name__.removesuffix('Part').lower()}",
                why="only text is sent to a server",
            )


def _call(call: ToolCallPart, number: int) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return {
        "id": call.id or f"call_{number}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
