"""Shared fixtures. Torch gets one thread: tiny models are slower with more, and ten times so on a busy machine."""

import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from engineroom import ChatModel

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.pop("MAX_CONCURRENT", None)

# The first call of a property pays for imports, and the machine may be busy: time is not what the properties are about.
# CI judges a change, so it tries the same examples each time; everywhere else they are new ones, which find new defects.
settings.register_profile("engineroom", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.load_profile("engineroom")


@pytest.fixture(scope="session")
def demo() -> Generator["ChatModel", None, None]:
    """The shipped model on the Transformers engine."""
    from engineroom import ChatModel

    with ChatModel() as model:
        yield model


@pytest.fixture(scope="session")
def demo_reward() -> Generator["ChatModel", None, None]:
    from engineroom import ChatModel

    with ChatModel({"model_name_or_path": "demo-reward"}) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random causal model, saved."""
    import tiny_models

    return tiny_models.causal(tmp_path_factory.mktemp("tiny") / "causal")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Generator["ChatModel", None, None]:
    from engineroom import ChatModel

    with ChatModel({"model_name_or_path": str(tiny_folder)}) as model:
        yield model


@pytest.fixture
def no_thread_left() -> Generator[None, None, None]:
    """Whatever threads the test started have ended when it ends."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=20)
    assert set(threading.enumerate()) <= before
