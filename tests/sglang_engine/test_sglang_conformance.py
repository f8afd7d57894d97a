"""The conformance suite on SGLang, in the environment that `make test-sglang` builds for it."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from engineroom.testing import EngineConformance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestSglang(EngineConformance):
    backend = "sglang"
    arguments: ClassVar[dict[str, Any]] = {
        "sglang_python": str(Path(__file__).parents[2] / ".venv-sglang" / "bin" / "python")
    }
