"""``/v1/completions``: OpenAI's older endpoint, which takes a prompt as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engineroom.server.wire.common import (
    VLLM_REFUSED,
    Answer,
    FinishReason,
    Harmless,
    SamplingFields,
    TokenUsage,
)
from engineroom.server.wire.tokens import TokenIds

MAX_PROMPTS = 1024


class CompletionRequest(SamplingFields):
    """A text, or token ids, to go on with; or several."""

    prompt: str | list[str] | TokenIds | list[TokenIds] = Field(
        description="A text, a list of texts, token ids, or a list of lists of token ids."
    )
    logprobs: int | None = Field(None, ge=0, le=50)

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        **VLLM_REFUSED,
        "echo": ("the prompt is not part of the answer", (False,)),
        "suffix": ("no model here fills gaps", ("",)),
        "add_special_tokens": ("a text is read as the tokenizer's own call does it", (True,)),
    }


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(None, description="With return_token_ids.")
    prompt_logprobs: list[dict[str, Any] | None] | None = Field(None, description="With prompt_logprobs.")


class Completion(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage
