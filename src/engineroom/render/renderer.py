"""Messages to a prompt.

A special token's string in somebody's text must stay text. Before the template runs, a marker (a Unicode noncharacter)
is put into each such string in the conversation, and behind a text that ends with the beginning of one, which the
template might complete. Afterwards the prompt is cut at the markers and the pieces are encoded apart, so that no piece
holds the whole string. A conversation without such strings is encoded in one go.
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
        self._controls = _ControlTokens(tokenizer, special)

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
        messages = self._checked(messages)
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
                raise ParameterError(
                    "enable_thinking is not a switch of this model's chat template",
                    fix="leave it out",
                    parameter="enable_thinking",
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
        return self._prompt(self._run(self._checked(messages), (), {"add_generation_prompt": False}))

    def render_raw(self, text: str) -> Prompt:
        """A text as the tokenizer itself reads it, no template around; a BOS token that it brings is not doubled."""
        _check_unicode(text, "the text")
        bos = self.tokenizer.bos_token
        encode = self.tokenizer.encode if bos and text.startswith(bos) else self.tokenizer.encode_plain
        return Prompt(tuple(encode(text)), text)

    def _checked(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, without media and with the default system prompt where they bring none."""
        self._refuse_media(messages)
        if self._default_system is None or any(m.role == "system" for m in messages):
            return messages
        return (Message("system", (TextPart(self._default_system),)), *messages)

    def _run(self, messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, Any]) -> str:
        turns = [self._turn(message) for message in messages]
        return self.template.render(
            **template_variables(self.tokenizer, turns, [self._definition(t) for t in tools] or None),
            **options,
        )

    def _turn(self, message: Message) -> dict[str, Any]:
        guard = self._guard_special if message.role == "assistant" else self._guard_all
        turn: dict[str, Any] = {"role": message.role, "content": guard(message.text)}
        turn.update({"name": self._guard_all(message.name)} if message.name else {})
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
        identity = {"id": self._guard_all(call.id)} if call.id else {}
        return {"type": "function", "function": function, **identity}

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
        begun = (opening if start.rstrip().endswith(opening) else "") + last.text
        return self._prompt(
            start + self._guard_special(last.text),
            inside_thinking=bool(opening) and begun.rfind(opening) > begun.rfind(closing),
        )

    def _prompt(self, text: str, *, inside_thinking: bool = False) -> Prompt:
        if "ensure_ascii" in self.template.source:  # the template may have had tojson write markers as ASCII
            text = text.replace("\\ufdd0", _MARKER)
        plain = text.replace(_MARKER, "")
        _check_unicode(plain, "the prompt")
        pieces = [piece for piece in text.split(_MARKER) if piece]
        ids = tuple(token_id for piece in pieces for token_id in self.tokenizer.encode(piece))
        self._controls.check(pieces, ids)
        return Prompt(ids, plain, inside_thinking=inside_thinking)

    def _refuse_media(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for part in message.parts:
                if isinstance(part, (ImagePart, VideoPart, AudioPart)):
                    raise UnsupportedError(
                        _MEDIA[type(part)], self._engine_name or "chosen", why="media are not supported yet",
                        fix="send text only", place=part.place,
                    )  # fmt: skip


class _ControlTokens:
    """The last check on special tokens: none may come out of a text that does not hold its string.

    Tokenizers that normalise their input (NFKC turns full-width letters into plain ones) can read a special token in
    a text that no search for its string finds.
    """

    def __init__(self, tokenizer: Tokenizer, special: Sequence[str]) -> None:
        ids = {token: tokenizer.encode(token) for token in special}
        unknown = tokenizer.encode("\U0010fffd")  # whatever it becomes, an unknown-token too, it may become
        self._ids = {i[0] for i in ids.values() if len(i) == 1 and i[0] not in unknown}
        words = sorted((t for t, i in ids.items() if i[0:1] and i[0] in self._ids), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def check(self, pieces: Sequence[str], token_ids: Sequence[int]) -> None:
        """
        Raises:
            MessageError: there are more special tokens than their strings.
        """
        if self._pattern is None:
            return
        found = sum(token_id in self._ids for token_id in token_ids)
        if found > sum(len(self._pattern.findall(piece)) for piece in pieces):
            raise MessageError(
                "the conversation holds text that this tokenizer reads as a special token",
                why="special tokens belong to the template",
                fix="leave out look-alikes of special tokens, such as full-width letters in angle brackets",
            )


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(
            f"{what} holds half a character", why=str(error), fix="send valid Unicode text"
        ) from error


def _guard(tokens: Sequence[str]) -> Callable[[str], str]:
    """A function that puts markers into a text so that none of ``tokens`` is left whole in it, nor begun at its end."""
    if not tokens:
        return lambda text: text.replace(_MARKER, "\ufffd")
    whole = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
    beginnings = {token[:length] for token in tokens for length in range(1, len(token))}
    longest = max(map(len, beginnings))

    def guard(text: str) -> str:
        text = text.replace(_MARKER, "\ufffd")
        pieces: list[str] = []
        start = 0
        while (found := whole.search(text, start)) is not None:
            # The next search begins at the cut: the rest of this token may be the beginning of another.
            pieces.append(text[start : found.start() + 1])
            start = found.start() + 1
        rest = text[start:]
        end = len(rest.rstrip())  # templates trim
        if any(rest[end - length : end] in beginnings for length in range(1, min(longest, end) + 1)):
            pieces += [rest[:end], rest[end:]]
        else:
            pieces.append(rest)
        return _MARKER.join(pieces)

    return guard


def _deep(value: Any, guard: Callable[[str], str]) -> Any:
    """The value with each text in it guarded, keys included.

    Raises:
        MessageError: it is nested too deeply, or holds itself.
    """
    try:
        return _guarded(value, guard)
    except RecursionError as error:
        raise MessageError(
            "tools or tool calls are nested too deeply", fix="send a flatter object"
        ) from error


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Mapping):
        return {guard(str(k)): _guarded(v, guard) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_guarded(item, guard) for item in cast("Sequence[Any]", value)]
    return value
