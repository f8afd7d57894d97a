"""Messages to a prompt.

A special token's string in somebody's text must stay text. Before the template runs, a marker (a Unicode noncharacter)
is put into each such string in the conversation; afterwards the prompt is cut at the markers and the pieces are encoded
apart, so that no piece holds the whole string. A conversation without such strings is encoded in one go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from engineroom.errors import MessageError, ParameterError, TemplateError, UnsupportedError
from engineroom.render.template import ChatTemplate, template_variables
from engineroom.types import (
    AudioPart,
    ImagePart,
    Message,
    Prompt,
    ReasoningPart,
    TextPart,
    Tokenizer,
    Tool,
    ToolCallPart,
    ToolResultPart,
    VideoPart,
)

_MARKER = "\ufdd0"
_MEDIA = {ImagePart: "images", VideoPart: "videos", AudioPart: "audios"}


class Renderer:
    """Makes prompts for one model. Thread-safe: it keeps no state between calls."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        engine_name: str = "",
        default_system: str | None = None,
        enable_thinking: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._engine_name = engine_name
        self._default_system = default_system
        self._enable_thinking = enable_thinking
        special = [
            text for text, is_special in tokenizer.added_tokens.items() if is_special and len(text) > 1
        ]
        tags = [
            t
            for t, is_special in tokenizer.added_tokens.items()
            if not is_special and len(t) > 1 and t in template.source
        ]
        self._guard_special = _guard(special)
        self._guard_all = _guard([*special, *tags])

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        enable_thinking: bool | None = None,
        continue_final: bool = False,
    ) -> Prompt:
        """The prompt that asks for the next assistant message, or goes on with the last one.

        Raises:
            TemplateError: the template refuses, or can't do what is asked.
            UnsupportedError: media.
        """
        self._refuse_media(messages)
        if self._default_system is not None and not any(m.role == "system" for m in messages):
            messages = (Message("system", (TextPart(self._default_system),)), *messages)
        *before, last = messages
        if continue_final and (
            last.role != "assistant" or any(isinstance(p, ToolCallPart) for p in last.parts)
        ):
            raise ParameterError(
                "continue_final needs an assistant message without tool calls at the end",
                parameter="continue_final",
            )
        options: dict[str, Any] = {"add_generation_prompt": True}
        thinking = self._enable_thinking if enable_thinking is None else enable_thinking
        if thinking is not None:
            if thinking and not self.template.supports_thinking:
                raise TemplateError(
                    "enable_thinking is not a switch of this model's chat template",
                    fix="leave enable_thinking out",
                )
            options["enable_thinking"] = thinking
        if tools and not self.template.supports_tools:
            raise TemplateError("this model's chat template has no place for tools", fix="leave tools out")
        text = self._run(before if continue_final else messages, tools, options)
        if continue_final:
            return self._begun(text, last)
        tags = self.template.thinking_tags
        return self._prompt(text, inside_thinking=tags is not None and text.rstrip().endswith(tags[0]))

    def render_scored(self, messages: Sequence[Message]) -> Prompt:
        """A whole conversation, for a reward model."""
        self._refuse_media(messages)
        return self._prompt(self._run(messages, (), {"add_generation_prompt": False}))

    def render_raw(self, text: str) -> Prompt:
        """A text as the tokenizer itself reads it, no template around."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MessageError("the text holds half a character", why=str(error)) from error
        return Prompt(tuple(self.tokenizer.encode_plain(text)), text)

    def _run(self, messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, Any]) -> str:
        turns = [self._turn(message) for message in messages]
        return self.template.render(
            **template_variables(self.tokenizer, turns, [self._definition(t) for t in tools] or None),
            **options,
        )

    def _turn(self, message: Message) -> dict[str, Any]:
        guard = self._guard_special if message.role == "assistant" else self._guard_all
        turn: dict[str, Any] = {"role": message.role, "content": guard(message.text)}
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls:
            turn["tool_calls"] = [self._call(call) for call in calls]
        for part in message.parts:
            if isinstance(part, ReasoningPart):
                turn["reasoning_content"] = guard(part.text)
            elif isinstance(part, ToolResultPart):
                turn["content"] = guard(part.text)
                turn.update({"name": guard(part.name)} if part.name else {})
                turn.update({"tool_call_id": guard(part.call_id)} if part.call_id else {})
        return turn

    def _call(self, call: ToolCallPart) -> dict[str, Any]:
        function = {"name": self._guard_all(call.name), "arguments": _deep(call.arguments, self._guard_all)}
        return {"type": "function", "function": function, **({"id": call.id} if call.id else {})}

    def _definition(self, tool: Tool) -> dict[str, Any]:
        function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        return {"type": "function", "function": _deep(function, self._guard_all)}

    def _begun(self, start: str, last: Message) -> Prompt:
        """The prompt with the answer begun, as the model left it when it wrote these thoughts and this text itself.

        The thinking block goes in unless the prompt has closed it already, which is how templates turn thinking off.
        """
        opening, closing = self.template.thinking_tags or ("", "")
        thought = "".join(part.text for part in last.parts if isinstance(part, ReasoningPart))
        if thought and opening and not start.rstrip().endswith(closing):
            head = "" if start.rstrip().endswith(opening) else f"{opening}\n"
            tail = f"\n{closing}\n\n" if last.text else ""
            start += head + self._guard_all(thought.strip("\n")) + tail
            return self._prompt(start + self._guard_special(last.text), inside_thinking=not last.text)
        return self._prompt(start + self._guard_special(last.text))

    def _prompt(self, text: str, *, inside_thinking: bool = False) -> Prompt:
        text = text.replace("\\ufdd0", _MARKER)  # a template may ask tojson for ASCII
        ids = [
            token_id for piece in text.split(_MARKER) if piece for token_id in self.tokenizer.encode(piece)
        ]
        return Prompt(tuple(ids), text.replace(_MARKER, ""), inside_thinking=inside_thinking)

    def _refuse_media(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for part in message.parts:
                if type(part) in _MEDIA:
                    raise UnsupportedError(
                        _MEDIA[type(part)], self._engine_name or "chosen", why="media are not supported yet",
                        fix="send text only",
                    )  # fmt: skip


def _guard(tokens: Sequence[str]) -> Callable[[str], str]:
    """A function that puts markers into a text so that none of ``tokens`` is left whole in it."""
    pattern = (
        re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
        if tokens
        else None
    )

    def guard(text: str) -> str:
        text = text.replace(_MARKER, "\ufffd")
        if pattern is None:
            return text
        while (found := pattern.search(text)) is not None:  # again: the halves may complete another token
            text = f"{text[: found.start() + 1]}{_MARKER}{text[found.start() + 1 :]}"
        return text

    return guard


def _deep(value: Any, guard: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Mapping):
        return {guard(str(k)): _deep(v, guard) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_deep(item, guard) for item in cast("Sequence[Any]", value)]
    return value
