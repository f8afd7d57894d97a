"""vLLM: an engine process of its own, driven through ``AsyncLLM`` in token ids."""

from engineroom.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
