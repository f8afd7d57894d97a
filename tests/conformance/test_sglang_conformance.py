"""The conformance suite on SGLang, in the environment that `make test` builds for it."""

import pytest

from engineroom.testing import EngineConformance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class TestSglang(EngineConformance):
    backend = "sglang"
