"""``/v1/models``, OpenAI's and Anthropic's."""

from __future__ import annotations

from typing import Literal

from engineroom.server.wire.common import Answer


class ModelCard(Answer):
    """``max_model_len`` and ``parent`` are vLLM's: the context's length, and the model under an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "engineroom"
    max_model_len: int | None = None
    parent: str | None = None


class ModelList(Answer):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class AnthropicModel(Answer):
    """
    Attributes:
        created_at: RFC 3339.
        max_tokens: an answer can't be longer than the context.
    """

    id: str
    type: Literal["model"] = "model"
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class AnthropicModelList(Answer):
    """A page; ``has_more`` is of the direction in which the pages are turned."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None
