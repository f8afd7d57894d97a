"""``/v1/chat/completions``, after OpenAI's reference and vLLM's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engineroom.server.wire.common import (
    LABEL,
    TOOLS,
    VLLM_REFUSED,
    Answer,
    FinishReason,
    Harmless,
    SamplingFields,
    TokenUsage,
)


class ChatRequest(SamplingFields):
    """A conversation to answer."""

    messages: list[dict[str, Any]] = Field(
        description="Messages with role and content; content is text or a list of parts.",
        examples=[[{"role": "user", "content": "Hi"}]],
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=50)
    tools: list[dict[str, Any]] | None = Field(None, description=TOOLS)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = Field(None, description="Labels; nothing here depends on them.")
    safety_identifier: str | None = Field(None, description=LABEL)
    prompt_cache_key: str | None = Field(None, description=LABEL)

    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="vLLM: switches of the chat template: enable_thinking."
    )
    continue_final_message: bool | None = Field(
        None, description="vLLM: go on with a last assistant message."
    )
    add_generation_prompt: bool | None = None
    include_reasoning: bool | None = Field(None, description="vLLM: false leaves the reasoning out.")

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        **VLLM_REFUSED,
        "functions": ("they are called tools now", ([],)),
        "function_call": ("it is called tool_choice now", ()),
        "audio": ("no model here speaks", ()),
        "prediction": ("answers are not predicted", ()),
        "store": ("nothing is stored", (False,)),
        "service_tier": ("all requests are served alike", ("auto", "default")),
        "verbosity": ("no model here has the switch", ("medium",)),
        "web_search_options": ("this server does not search the web", ()),
        "moderation": ("nothing is moderated", ()),
        "prompt_cache_retention": ("nothing is kept for a time", ("in_memory",)),
        "prompt_cache_options": ("nothing is kept for a time", ({},)),
        "echo": ("the prompt is not part of the answer", (False,)),
        "add_special_tokens": ("the chat template makes all of them", (False,)),
        "documents": ("templates get messages and tools", ([],)),
        "chat_template": ("a template that comes with a request is not run", ()),
        "mm_processor_kwargs": ("media are not supported yet", ({},)),
        "media_io_kwargs": ("media are not supported yet", ({},)),
    }


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None


class ChatChoice(Answer):
    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(None, description="With return_token_ids.")


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids.")
    prompt_logprobs: list[dict[str, Any] | None] | None = Field(None, description="With prompt_logprobs.")
