"""The conformance suite on the Transformers engine."""

from engineroom.testing import EngineConformance


class TestHuggingface(EngineConformance):
    backend = "huggingface"
