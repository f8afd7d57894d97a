"""Loading and unloading LoRA adapters, with vLLM's names."""

from __future__ import annotations

from pydantic import Field

from engineroom.server.wire.common import Answer, Wire


class LoadAdapterRequest(Wire):
    lora_name: str = Field(min_length=1, max_length=256, description="What requests then give as model.")
    lora_path: str = Field(
        min_length=1, max_length=4096, description="Its folder, below the server's lora_folder."
    )


class UnloadAdapterRequest(Wire):
    lora_name: str = Field(min_length=1, max_length=256)


class AdapterList(Answer):
    adapters: list[str]
