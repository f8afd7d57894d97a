"""SGLang's environment, as `make test-sglang` builds it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sglang_python() -> str:
    return str(Path(__file__).parents[2] / ".venv-sglang" / "bin" / "python")
