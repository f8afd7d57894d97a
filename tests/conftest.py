"""Shared fixtures. Threads are limited before torch is imported: tiny models are slower with more."""

import os
from collections.abc import Generator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def demo() -> Generator["object", None, None]:
    """The shipped model on the Transformers engine."""
    from engineroom import ChatModel

    with ChatModel() as model:
        yield model


@pytest.fixture(scope="session")
def demo_reward() -> Generator["object", None, None]:
    from engineroom import ChatModel

    with ChatModel({"model_name_or_path": "demo-reward"}) as model:
        yield model
