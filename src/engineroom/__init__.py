"""engineroom: one chat and scoring API over several inference engines.

>>> from engineroom import ChatModel
>>> with ChatModel() as model:                                   # the shipped model; or ChatModel({...})
...     print(model.chat("What is 7 plus 5?")[0].response_text)
7 plus 5 is 12.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engineroom.chat import ChatModel, SamplingWarning, TemplateWarning
    from engineroom.config import Arguments, parse_arguments
    from engineroom.engines.base import BaseEngine, Health
    from engineroom.engines.scripted import Reply, ScriptedEngine
    from engineroom.types import (
        Chunk,
        Delta,
        Embedding,
        Message,
        Prompt,
        Response,
        Reward,
        SamplingParams,
        TokenLogprob,
        Tool,
        Usage,
    )

__version__ = "0.1.0"

_HOMES = {
    "ChatModel": "chat",
    "SamplingWarning": "chat",
    "TemplateWarning": "chat",
    "Arguments": "config",
    "parse_arguments": "config",
    "BaseEngine": "engines.base",
    "Health": "engines.base",
    "Reply": "engines.scripted",
    "ScriptedEngine": "engines.scripted",
    **dict.fromkeys(
        (
            "Chunk",
            "Delta",
            "Embedding",
            "Message",
            "Prompt",
            "Response",
            "Reward",
            "SamplingParams",
            "TokenLogprob",
            "Tool",
            "Usage",
        ),
        "types",
    ),
}

__all__ = [
    "Arguments",
    "BaseEngine",
    "ChatModel",
    "Chunk",
    "Delta",
    "Embedding",
    "Health",
    "Message",
    "Prompt",
    "Reply",
    "Response",
    "Reward",
    "SamplingParams",
    "SamplingWarning",
    "ScriptedEngine",
    "TemplateWarning",
    "TokenLogprob",
    "Tool",
    "Usage",
    "parse_arguments",
]


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that ``import engineroom`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engineroom' has no attribute {name!r}")
    return getattr(importlib.import_module(f"engineroom.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
