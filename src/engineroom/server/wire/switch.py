"""Another engine or model behind the running server."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from engineroom.server.wire.common import Answer, Wire


class SwitchRequest(Wire):
    arguments: dict[str, Any] = Field(
        description="The model's arguments to change, such as infer_backend and model_name_or_path; the others stay, and "
        "null takes one back to its default."
    )
    served_model_name: list[str] | None = Field(
        None, min_length=1, description="What the model is called from now on; without it, the names stay."
    )
    drop: list[str] | None = Field(
        None, description="What may be missing afterwards: names of models or adapters; chat, score, embed."
    )
    close_first: bool | None = Field(
        None, description="Close the old model before the new one loads: for one model's memory alone."
    )
    drain_timeout: float | None = Field(
        None, ge=0, le=3600, description="Seconds that answers in the old model have; shutdown_timeout's."
    )


class SwitchState(Answer):
    stage: str = Field(description="idle, checking, loading, draining, closing or restoring.")
    engine: str | None
    model: str | None
    loading: str = Field(description="What the new model is at.")
    share: float | None = Field(description="How much of that is done, from 0 to 1.")
    last: str = Field(description="How the last switch ended.")
    warnings: list[str] = Field(description="What is to know about the model that serves.")
