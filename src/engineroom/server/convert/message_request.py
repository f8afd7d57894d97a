"""A request to ``/v1/messages`` to messages and the arguments of ``ChatModel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engineroom.server.convert.conversation import refuse_tools, tool_result
from engineroom.server.convert.sampling import given, of_schema
from engineroom.server.wire.messages import (
    Base64Source,
    ImageBlock,
    InputTurn,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    TurnsFields,
)
from engineroom.types import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
)

NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "adapter": "model",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "enable_thinking": "thinking",
    "continue_final": "messages",
}
"""Our parameters that have another name on this wire."""


def message_options(
    body: MessagesRequest, adapter: str | None, timeout: float | None, engine: str
) -> dict[str, Any]:
    """The options of the call: sampling, and the switches of rendering.

    Raises:
        RequestError: something that the request asks for can't be done.
    """
    wanted = body.output_config.format if body.output_config else None
    sampling = given(
        max_new_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
        response_format=of_schema(wanted.schema_) if wanted else None,
        adapter=adapter,
        timeout=timeout,
    )
    return sampling | rendering_switches(body, engine)


def rendering_switches(body: TurnsFields, engine: str) -> dict[str, Any]:
    """The options that change the prompt.

    Raises:
        RequestError: they can't be honoured.
    """
    choice = body.tool_choice.get("type") if body.tool_choice else None
    refuse_tools(body.tools, choice, engine)
    switches: dict[str, Any] = {}
    if body.thinking is not None:
        switches["enable_thinking"] = body.thinking.type != "disabled"
    if body.messages[-1].role == "assistant":
        switches["continue_final"] = True
    return switches


def conversation(body: TurnsFields) -> list[Message]:
    """The messages. Results of tools, which Anthropic has among a user's blocks, are messages of their own."""
    messages: list[Message] = []
    if body.system is not None:
        texts = [body.system] if isinstance(body.system, str) else [block.text for block in body.system]
        messages.append(Message("system", tuple(TextPart(text) for text in texts)))
    for place, turn in enumerate(body.messages):
        messages += _turn(turn, f"messages[{place}].content")
    return messages


def _turn(turn: InputTurn, place: str) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message(turn.role, (TextPart(turn.content),))]
    messages: list[Message] = []
    parts: list[Part] = []
    for i, block in enumerate(turn.content):
        if isinstance(block, ToolResultBlock):
            messages += [Message(turn.role, tuple(parts))] if parts else []
            messages.append(Message("tool", _result(block, f"{place}[{i}].content")))
            parts = []
        else:
            parts.append(_part(block, f"{place}[{i}]"))
    return [*messages, Message(turn.role, tuple(parts))] if parts or not messages else messages


def _part(block: TextBlock | ImageBlock | ThinkingBlock | ToolUseBlock, place: str) -> Part:
    match block:
        case TextBlock():
            return TextPart(block.text)
        case ThinkingBlock():
            return ReasoningPart(block.thinking)
        case ToolUseBlock():
            return ToolCallPart(block.name, block.input, block.id)
        case ImageBlock():
            return _image(block, place)


def _image(block: ImageBlock, place: str) -> ImagePart:
    source = block.source
    if isinstance(source, Base64Source):
        return ImagePart({"url": f"data:{source.media_type};base64,{source.data}"}, place)
    return ImagePart({"url": source.url}, place)


def _result(block: ToolResultBlock, place: str) -> tuple[Part, ...]:
    content = block.content
    if isinstance(content, str):
        return tool_result([TextPart(content)], block.tool_use_id)
    parts = [_part(part, f"{place}[{i}]") for i, part in enumerate(content)]
    return tool_result(parts, block.tool_use_id)
