"""The Transformers engine: one inference thread that owns the model."""

from engineroom.engines.huggingface.engine import HuggingfaceEngine

__all__ = ["HuggingfaceEngine"]
