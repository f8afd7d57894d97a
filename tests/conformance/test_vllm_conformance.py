"""The conformance suite on vLLM."""

from engineroom.testing import EngineConformance


class TestVllm(EngineConformance):
    backend = "vllm"
