"""The conformance suite on vLLM."""

import pytest

from engineroom.testing import EngineConformance

pytestmark = pytest.mark.slow


class TestVllm(EngineConformance):
    backend = "vllm"
