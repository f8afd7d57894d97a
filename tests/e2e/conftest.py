"""Servers that the tests of several files ask. Each is started once."""

from collections.abc import Generator
from pathlib import Path

import pytest
from api_process import Api, serving

SCRIPTED = Path(__file__).with_name("scripted_api.py")


@pytest.fixture(scope="session")
def scripted_api() -> Generator[Api, None, None]:
    words = (SCRIPTED, "api", "--served-model-name", "demo", "max_concurrent=4", "max_queue=2")
    with serving(*words, sum="You said: What is 7 plus 5?") as api:
        yield api


@pytest.fixture(scope="session")
def demo_api() -> Generator[Api, None, None]:
    """The shipped model on the Transformers engine."""
    with serving("-m", "engineroom", "api", sum="12") as api:
        yield api


@pytest.fixture(scope="session")
def embedding_api() -> Generator[Api, None, None]:
    """The shipped model as one that makes vectors."""
    with serving("-m", "engineroom", "api", "stage=embed", sum="") as api:
        yield api


@pytest.fixture(scope="session")
def reward_api() -> Generator[Api, None, None]:
    """The shipped reward model."""
    with serving("-m", "engineroom", "api", "model_name_or_path=demo-reward", sum="") as api:
        yield api


@pytest.fixture(params=["scripted", pytest.param("demo", marks=pytest.mark.slow)])
def api(request: pytest.FixtureRequest) -> Api:
    """Both."""
    return request.getfixturevalue(f"{request.param}_api")
