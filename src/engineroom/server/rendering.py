"""Prompts for routes that tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from engineroom.call import text_length
from engineroom.chat import ChatModel
from engineroom.types import Prompt

T = TypeVar("T")

_LONG_TEXT = 20_000
"""Characters whose tokens are made on a thread, so that streams go on."""


async def rendered(model: ChatModel, messages: Any, tools: Any = None, **switches: Any) -> Prompt:
    return await beside(
        partial(model.render, messages, tools=tools, **switches), text_length((messages, tools))
    )


async def beside(work: Callable[[], T], length: int) -> T:
    """Does what takes time with the text's length: at once, or on a thread."""
    return work() if length <= _LONG_TEXT else await asyncio.to_thread(work)
