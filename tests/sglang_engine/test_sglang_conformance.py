"""The conformance suite on SGLang, in the environment that `make test` builds for it."""

from typing import Any, ClassVar

import pytest
import sglang_environment

from engineroom.testing import EngineConformance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestSglang(EngineConformance):
    backend = "sglang"
    arguments: ClassVar[dict[str, Any]] = sglang_environment.SETTINGS
