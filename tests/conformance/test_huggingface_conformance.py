"""The conformance suite on the Transformers engine."""

import pytest

from engineroom.testing import EngineConformance

pytestmark = pytest.mark.slow


class TestHuggingface(EngineConformance):
    backend = "huggingface"
