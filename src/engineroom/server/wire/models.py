"""``/v1/models``."""

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
