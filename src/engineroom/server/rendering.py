"""Prompts for routes that tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from engineroom.call import LONG_TEXT, text_length
from engineroom.chat import ChatModel
from engineroom.types import Prompt

T = TypeVar("T")


async def rendered(model: ChatModel, messages: Any, tools: Any = None, **switches: Any) -> Prompt:
    return await beside(
        partial(model.render, messages, tools=tools, **switches), text_length((messages, tools))
    )


async def beside(work: Callable[[], T], length: int) -> T:
    """Does what takes time with the text's length: at once, or on a thread."""
    return work() if length <= LONG_TEXT else await asyncio.to_thread(work)
