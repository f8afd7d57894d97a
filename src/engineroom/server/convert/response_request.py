"""A request to ``/v1/responses`` to messages and the arguments of ``ChatModel``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from engineroom.errors import MessageError
from engineroom.server.convert.conversation import refuse_tools, template_switches, tool_result, with_effort
from engineroom.server.convert.sampling import drawing_options, given, of_schema
from engineroom.server.wire.responses import (
    Content,
    ConversationFields,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputMessage,
    InputReasoning,
    InputText,
    Item,
    OutputText,
    Refused,
    ResponsesRequest,
    SchemaFormat,
)
from engineroom.types import (
    AudioPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
)

NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_output_tokens",
    "adapter": "model",
    "response_format": "text.format",
    "enable_thinking": "chat_template_kwargs.enable_thinking",
    "logprobs": "top_logprobs",
}
"""Our parameters that have another name on this wire."""


def response_options(
    body: ResponsesRequest, adapter: str | None, timeout: float | None, engine: str
) -> dict[str, Any]:
    """The options of the call: sampling, log-probabilities, and the switches of rendering.

    Raises:
        RequestError: something that the request asks for can't be done, or contradicts itself.
    """
    options = drawing_options(body, adapter, timeout) | given(
        max_new_tokens=body.max_output_tokens,
        response_format=_format(body),
        logprobs=(body.top_logprobs or 0) if wants_logprobs(body) else None,
    )
    return options | rendering_switches(body, engine)


def rendering_switches(body: ConversationFields, engine: str) -> dict[str, Any]:
    """The options that change the prompt.

    Raises:
        RequestError: they can't be honoured, or contradict each other.
    """
    refuse_tools(body.tools, body.tool_choice, engine)
    effort = body.reasoning.effort if body.reasoning else None
    return with_effort(template_switches(body.chat_template_kwargs, None, None), effort, "reasoning.effort")


def wants_logprobs(body: ResponsesRequest) -> bool:
    return body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ())


def _format(body: ResponsesRequest) -> dict[str, Any] | None:
    wanted = body.text.format if body.text else None
    if wanted is None:
        return None
    if isinstance(wanted, SchemaFormat):
        return of_schema(wanted.schema_)
    return {"type": wanted.type}


def conversation(body: ConversationFields) -> list[Message]:
    """The messages. What the model thought, said and called in one turn is one message.

    Raises:
        MessageError: what is wrong, and where (``input[2].arguments``).
    """
    turns = _Turns()
    if body.instructions is not None:
        turns.add("system", [TextPart(body.instructions)])
    if isinstance(body.input, str):
        turns.add("user", [TextPart(body.input)])
        return turns.messages
    if not body.input:
        raise MessageError("input is empty", fix='give at least one: [{"role": "user", "content": "Hi"}]')
    for place, item in enumerate(body.input):
        _add(turns, item, f"input[{place}]")
    return turns.messages


class _Turns:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def add(self, role: Any, parts: Sequence[Part]) -> None:
        self.messages.append(Message(role, tuple(parts)))

    def go_on(self, parts: Sequence[Part], *, after: tuple[type[Part], ...]) -> None:
        """Adds to the assistant's turn, if that has nothing but ``after`` in it yet; else this is the next turn."""
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant" and all(isinstance(p, after) for p in last.parts):
            self.messages[-1] = Message("assistant", (*last.parts, *parts))
        else:
            self.add("assistant", parts)


def _add(turns: _Turns, item: Item, place: str) -> None:
    match item:
        case InputReasoning():
            if text := "".join(piece.text for piece in item.content or ()):
                turns.add("assistant", [ReasoningPart(text)])
        case FunctionCall():
            call = ToolCallPart(item.name, _arguments(item.arguments, place), item.call_id)
            turns.go_on([call], after=(ReasoningPart, TextPart, ToolCallPart))
        case FunctionCallOutput():
            turns.add("tool", tool_result(_parts(item.output, f"{place}.output"), item.call_id))
        case InputMessage(role="assistant"):
            turns.go_on(_parts(item.content, f"{place}.content"), after=(ReasoningPart,))
        case InputMessage():
            role = "system" if item.role == "developer" else item.role
            turns.add(role, _parts(item.content, f"{place}.content"))


def _parts(content: str | list[Content], place: str) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    return [_part(part, f"{place}[{i}]") for i, part in enumerate(content)]


def _part(part: Content, place: str) -> Part:
    match part:
        case InputText() | OutputText():
            return TextPart(part.text)
        case Refused():
            return TextPart(part.refusal)
        case InputImage():
            if part.image_url is None:
                raise MessageError(
                    f"{place} has no image_url", why="no files are kept here", fix="send the image"
                )
            return ImagePart(given(url=part.image_url, detail=part.detail), place)
        case _:
            return AudioPart({"data": part.input_audio.data, "format": part.input_audio.format}, place)


def _arguments(text: str, place: str) -> Mapping[str, Any]:
    try:
        value: object = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{place}.arguments is not valid JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise MessageError(f"{place}.arguments must be a JSON object")
    return cast("dict[str, Any]", value)
