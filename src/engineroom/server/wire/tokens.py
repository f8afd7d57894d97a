"""``/tokenize``, ``/detokenize`` (vLLM's) and ``/render``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from pydantic import Field

from engineroom.server.wire.common import Answer, Harmless, Wire

TokenIds: TypeAlias = list[int]
"""Which of them a model has is judged with it. To hold each against bounds here, too, would take twice the time."""


class Rendering(Wire):
    """A conversation, as the chat template is to see it."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "chat_template": ("a template that comes with a request is not run", ()),
        "mm_processor_kwargs": ("media are not supported yet", ({},)),
    }


class TokenizeRequest(Rendering):
    """A text, or a conversation, to cut into tokens."""

    prompt: str | None = None
    add_special_tokens: bool | None = Field(None, description="With a text: what the tokenizer puts around.")
    return_token_strs: bool | None = None


class Tokenized(Answer):
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Wire):
    model: str | None = None
    tokens: TokenIds


class Detokenized(Answer):
    prompt: str


class Rendered(Answer):
    """The exact prompt that a model would see."""

    prompt: str
    token_ids: list[int]
    count: int
