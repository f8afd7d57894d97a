"""A chat request to the arguments of ``ChatModel``. Messages go as they are: ``render`` reads OpenAI's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineroom.errors import ParameterError, UnsupportedError, shown
from engineroom.server.convert.sampling import sampling_options
from engineroom.server.wire.chat import ChatRequest
from engineroom.types import Part, TextPart, ToolResultPart


def chat_options(
    body: ChatRequest, adapter: str | None, timeout: float | None, engine: str
) -> dict[str, Any]:
    """The options of the call: sampling, log-probabilities, and the switches of rendering.

    Raises:
        RequestError: something that the request asks for can't be done, or contradicts itself.
    """
    refuse_tools(body.tools, body.tool_choice, engine)
    if body.modalities is not None and body.modalities != ["text"]:
        raise UnsupportedError("modalities", engine, why="answers are text", fix='leave it out, or ["text"]')
    options = sampling_options(body, adapter, timeout)
    if body.max_completion_tokens is not None:
        if body.max_tokens is not None and body.max_tokens != body.max_completion_tokens:
            raise ParameterError(
                "max_tokens and max_completion_tokens are two names of one parameter; give one",
                parameter="max_completion_tokens",
            )
        options["max_new_tokens"] = body.max_completion_tokens
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ParameterError("top_logprobs needs logprobs=true", parameter="top_logprobs")
    return options | _switches(body)


def refuse_tools(tools: Sequence[Any] | None, choice: Any, engine: str) -> None:
    """With ``tool_choice: none`` the model is to call none of them, so they are not shown to it.

    Raises:
        ParameterError: a tool is to be called, and there is none.
        UnsupportedError: there are tools to call.
    """
    if choice == "none" or not tools:
        if choice not in (None, "none", "auto"):
            raise ParameterError("tool_choice needs tools", parameter="tool_choice")
        return
    raise UnsupportedError(
        "tools",
        engine,
        why="calls are not read out of answers yet",
        fix='leave tools out, or tool_choice="none"',
    )


def tool_result(parts: Sequence[Part], call_id: str) -> tuple[Part, ...]:
    """What a tool gave, as the content of its message: its media, then all of its text as the result."""
    media = [part for part in parts if not isinstance(part, TextPart)]
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    return (*media, ToolResultPart(text, call_id=call_id))


def _switches(body: ChatRequest) -> dict[str, Any]:
    switches = template_switches(
        body.chat_template_kwargs, body.continue_final_message, body.add_generation_prompt
    )
    return with_effort(switches, body.reasoning_effort, "reasoning_effort")


def with_effort(switches: Mapping[str, Any], effort: str | None, field: str) -> dict[str, Any]:
    """The switches, and thinking turned off if OpenAI's effort says so. Models here have no degrees of it.

    Raises:
        ParameterError: another effort, or one that contradicts a switch.
    """
    if effort is None:
        return dict(switches)
    if effort != "none":
        raise ParameterError(
            f"{field}={shown(effort)} is not supported",
            why='models here think or do not; "none" turns thinking off',
            fix='chat_template_kwargs={"enable_thinking": true}',
            parameter=field,
        )
    if switches.get("enable_thinking"):
        raise ParameterError(f"{field} contradicts chat_template_kwargs.enable_thinking", parameter=field)
    return {**switches, "enable_thinking": False}


def template_switches(
    kwargs: Mapping[str, Any] | None, continue_final: bool | None, generation_prompt: bool | None
) -> dict[str, Any]:
    """vLLM's three fields about the template, as the options of ``render`` and ``chat``.

    Raises:
        ParameterError: a switch is not known, or they contradict each other.
    """
    switches: dict[str, Any] = {}
    for name, value in (kwargs or {}).items():
        if name != "enable_thinking":
            raise ParameterError(
                f"chat_template_kwargs.{name} is not a switch that can be set here",
                why="known: enable_thinking",
                parameter=f"chat_template_kwargs.{name}",
            )
        switches["enable_thinking"] = value
    if continue_final:
        if generation_prompt:
            raise ParameterError(
                "continue_final_message contradicts add_generation_prompt", parameter="add_generation_prompt"
            )
        switches["continue_final"] = True
    elif generation_prompt is False:
        raise ParameterError(
            "add_generation_prompt=false is not supported",
            why="an answer begins where the prompt asks for one",
            fix="leave it out, or give continue_final_message",
            parameter="add_generation_prompt",
        )
    return switches
