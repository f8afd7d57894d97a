"""``/v1/embeddings``, after OpenAI's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engineroom.server.wire.common import LABEL, Answer, Harmless, PromptUsage, Wire
from engineroom.server.wire.tokens import TokenIds


class EmbeddingRequest(Wire):
    """Texts, or token ids, to make vectors of; or, as vLLM has it, one conversation."""

    input: str | list[str] | TokenIds | list[TokenIds] | None = None
    messages: list[dict[str, Any]] | None = Field(None, description="vLLM: a conversation instead of input.")
    model: str | None = None
    dimensions: int | None = Field(None, ge=1, description="Keep the first so many numbers.")
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = Field(None, description=LABEL)
    normalize: bool | None = Field(None, description="Vectors of length 1; without it, as the model has it.")
    timeout: float | None = Field(None, gt=0, le=10_000_000, description="Seconds for the whole request.")

    refused: ClassVar[Mapping[str, tuple[str, Harmless]]] = {
        "truncate_prompt_tokens": ("texts are never cut", ()),
        "add_special_tokens": ("a text is read as the tokenizer's own call does it", (True,)),
        "priority": ("requests are served in their order", (0,)),
    }


class EmbeddingItem(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Answer):
    object: Literal["list"]
    model: str
    data: list[EmbeddingItem]
    usage: PromptUsage
